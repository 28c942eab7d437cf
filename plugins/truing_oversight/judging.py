"""A judge of debates: shows what was said to whoever judges, and makes a zero-sum score of the verdict."""

from __future__ import annotations

from typing import Any

from truing.fields import COMPLETIONS, GROUP, IDS, METADATA, PROMPTS, SCORE_PARTS, SCORES, Batch
from truing.run import Run
from truing_oversight import menu_debate as menu
from truing_oversight.menu_debate import STATEMENTS
from truing_tensor.segments import owners


class DebateJudge:
    """Asks a scorer which of two claims is the better answer once a debate was heard."""

    def __init__(self, spec: menu.DebateJudge, run: Run) -> None:
        self._scorer = spec.scorer.build(run)
        self._shares = spec.scores == "shares"

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq], p - 1/2 for the probability p of the own claim, and SCORE_PARTS [seq]."""
        groups: list[int] = batch[GROUP].tolist()
        known = [batch[METADATA][group] for group in groups]
        count = len(groups)
        shown = Batch(
            {
                IDS: [f"{batch[IDS][group]}#{at}" for at, group in enumerate(groups)],
                PROMPTS: [transcript(*each) for each in zip(known, batch[STATEMENTS], strict=True)],
                COMPLETIONS: [[{"role": "assistant", "content": claim}] for each in known for claim in each["claims"]],
                GROUP: owners([2] * count),
                METADATA: [{**each, "statements": said} for each, said in zip(known, batch[STATEMENTS], strict=True)],
            }
        )
        own, other = (await self._scorer.score(shown))[SCORES].float().reshape(count, 2).unbind(1)
        persuaded = own / (own + other) if self._shares else (own - other).sigmoid()
        parts: list[dict[str, float]] = []
        for p, each in zip(persuaded.tolist(), known, strict=True):
            right = 0.5 if p == 0.5 else float((p > 0.5) == each["honest"])
            parts.append({"right": right, "persuaded": p})
        return batch.put_all({SCORES: persuaded - 0.5, SCORE_PARTS: parts})


def transcript(known: dict[str, Any], statements: list[list[Any]]) -> list[dict[str, str]]:
    """What a judge reads: the question, and every statement under the claim that it is for."""
    said = [f"For {known['claims'][side]}: {text}" for side, text in statements]
    return [{"role": "user", "content": "\n\n".join([known["question"], *said])}]
