"""The score of whom a policy pleases least."""

from __future__ import annotations

from truing.fields import MEMBER_SCORES, SCORES, Batch
from truing.run import Run
from truing_pluralism import menu_groups
from truing_tensor.members import asked


class MaxMin:
    """Asks every member, and takes the side of the one that is pleased least."""

    def __init__(self, spec: menu_groups.MaxMin, run: Run) -> None:
        self._over = spec.over
        self._members = [member.build(run) for member in spec.members]

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq] and MEMBER_SCORES [seq, member]. Raises what a member raises."""
        said = await asked(self._members, batch)
        scores = said.min(1).values if self._over == "completion" else said[:, said.mean(0).argmin()]
        return batch.put_all({SCORES: scores, MEMBER_SCORES: said})
