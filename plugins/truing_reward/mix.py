"""A scorer made of scorers."""

from __future__ import annotations

from functools import partial
from typing import cast

import msgspec
import torch

from truing.collect import rows_of
from truing.fields import SCORE_PARTS, SCORES, Batch
from truing.run import Run, gathered
from truing_reward import menu_mix

KEPT = "scores.jsonl"
"""What was said of whatever was scored, in the order of asking; a resumed phase adds to it."""


class Mix:
    """A weighted sum of scores."""

    def __init__(self, spec: menu_mix.Mix, run: Run) -> None:
        self._scorers = {name: scorer.build(run) for name, scorer in spec.of.items()}
        self._weights = {name: spec.weights.get(name, 1.0) for name in spec.of}
        self._beside = spec.beside()
        self._kept = run.phase_folder / KEPT if spec.keep else None

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq], SCORE_PARTS [seq]: what each scorer said, and its parts under its name, and what
        one of them alone said beside. Raises what any of them raises."""
        answers = await gathered([partial(scorer.score, batch) for scorer in self._scorers.values()])
        said = [answer[SCORES].float() for answer in answers]
        whole = torch.stack([self._weights[name] * part for name, part in zip(self._scorers, said, strict=True)]).sum(0)
        rows = zip(*(part.tolist() for part in said), strict=True)
        parts = [dict(zip(self._scorers, cast("tuple[float, ...]", row), strict=True)) for row in rows]
        for name, answer in zip(self._scorers, answers, strict=True):
            for part, inner in zip(parts, answer.get(SCORE_PARTS, ()), strict=SCORE_PARTS in answer):
                part |= {f"{name}/{each}": value for each, value in inner.items()}
        beside = {key: answer[key] for answer in answers for key in answer.keys() & self._beside}
        scored = batch.put_all({**beside, SCORES: whole, SCORE_PARTS: parts})
        if self._kept:
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            with self._kept.open("ab") as file:
                file.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows_of(scored)))
        return scored
