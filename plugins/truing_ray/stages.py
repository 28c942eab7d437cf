"""A generator and a scorer whose work is done by actors."""

from __future__ import annotations

from truing.fields import Batch
from truing.run import Run
from truing.stage import Weights
from truing_ray import plugin
from truing_ray.crew import Crew

_LEFT = ("", "group", "prompt_token")
"""dims of what a generator leaves on a batch as it is"""


class RayGenerator:
    """Completions by actors. `crew` are they."""

    def __init__(self, spec: plugin.RayGenerator, run: Run) -> None:
        self._spec, self.crew = spec, Crew(spec, run)

    async def sync_weights(self, weights: Weights) -> None:
        """Have the actors sample from these weights from now on. Raises UserError and RunFailed."""
        await self.crew.sync(weights)

    async def generate(self, batch: Batch) -> Batch:
        """The batch with the completions of its prompts. Raises what was raised there, UserError and Stopped."""
        left = {key: value for key, value in batch.items() if key.dims in _LEFT}
        sent = batch.only(self._spec.requires() | left.keys())
        made = await self.crew.asked("generate", sent, self._spec.requires())
        new = {key: value for key, value in made.items() if key not in left or key in self._spec.provides()}
        return Batch(left).put_all(new)


class RayScorer:
    """Scores by actors. `crew` are they."""

    def __init__(self, spec: plugin.RayScorer, run: Run) -> None:
        self._spec, self.crew = spec, Crew(spec, run)

    async def score(self, batch: Batch) -> Batch:
        """The batch with the scores of its completions. Raises what was raised there, UserError and Stopped."""
        made = await self.crew.asked("score", batch, self._spec.requires())
        return batch.put_all(made.only(self._spec.provides()))
