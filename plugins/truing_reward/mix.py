"""A scorer made of scorers."""

from __future__ import annotations

from typing import cast

import anyio
import torch
from torch import Tensor

from truing.errors import first_cause
from truing.fields import SCORE_PARTS, SCORES, Batch
from truing.run import Run
from truing_reward import menu_mix


class Mix:
    """A weighted sum of scores."""

    def __init__(self, spec: menu_mix.Mix, run: Run) -> None:
        self._scorers = {name: scorer.build(run) for name, scorer in spec.of.items()}
        self._weights = {name: spec.weights.get(name, 1.0) for name in spec.of}

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq], and SCORE_PARTS [seq]: what each scorer said. Raises what any of them raises."""
        said: dict[str, Tensor] = {}

        async def ask(name: str) -> None:
            said[name] = (await self._scorers[name].score(batch))[SCORES].float()

        try:
            async with anyio.create_task_group() as tasks:
                for name in self._scorers:
                    tasks.start_soon(ask, name)
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        whole = torch.stack([self._weights[name] * said[name] for name in self._scorers]).sum(0)
        rows = zip(*(said[name].tolist() for name in self._scorers), strict=True)
        parts = [dict(zip(self._scorers, cast("tuple[float, ...]", row), strict=True)) for row in rows]
        return batch.put_all({SCORES: whole, SCORE_PARTS: parts})
