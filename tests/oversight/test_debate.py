"""Debates: who hears what and when, what is handed on, and what a verdict is worth to either side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
import torch

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import (
    COMPLETIONS,
    GROUP,
    HEARD,
    HEARD_BEFORE,
    IDS,
    LOGPROBS,
    LOGPROBS_OLD,
    METADATA,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SCORE_PARTS,
    SCORES,
    SEQ,
    TOKENS,
    TURNS,
    Batch,
)
from truing.run import Run
from truing.sampling import prompts_of
from truing.stage import ScorerSpec
from truing.testing import check_spec
from truing_generate.plugin import Engine
from truing_model.plugin import RewardScorer, ScratchLm
from truing_oversight.evidence import questions, weighed
from truing_oversight.menu_debate import STATEMENTS, Debate, DebateJudge, EvidenceJudge, HiddenEvidence
from truing_tensor.groups import batch_of, take


class Held(NamedTuple):
    """asked: what each side had read when it spoke, call by call, as text; the model that spoke; the debates."""

    asked: list[list[str]]
    model: Any
    debates: Batch


def run(tmp_path: Path) -> Run:
    return Run("test", tmp_path, 0, Bus())


def debated(tmp_path: Path, **options: Any) -> Held:
    """Two questions, both sides of each, debated by a fresh model."""
    engine = Engine(samples=1, max_new_tokens=3, device="cpu")
    debate: Any = Debate(generator=engine, **options).build(run(tmp_path))
    model: Any = ScratchLm(width=16, layers=1, device="cpu", dtype="fp32").build(run(tmp_path))
    spec = HiddenEvidence()
    prompts = model.encode(prompts_of(batch_of([group for at in range(2) for group in questions(spec, at)]))).batch
    asked: list[list[str]] = []
    speak = debate._generator.generate

    async def listened(batch: Batch) -> Batch:
        sizes = torch.bincount(batch[PROMPT_GROUP]).tolist()
        asked.append([model.tokenizer.decode(part.tolist()) for part in batch[PROMPT_TOKENS].split(sizes)])
        return await speak(batch)

    debate._generator.generate = listened

    async def go() -> Batch:
        await debate.sync_weights(model.weights())
        return await debate.generate(prompts)

    return Held(asked, model, anyio.run(go))


def test_the_menu_keeps_its_promises() -> None:
    check_spec(Debate, generator=Engine(samples=1))
    check_spec(DebateJudge, scorer=EvidenceJudge())
    check_spec(EvidenceJudge)
    check_spec(HiddenEvidence)


def test_in_turn_one_hears_the_other_first_and_in_every_second_debate_it_is_this_side(tmp_path: Path) -> None:
    held = debated(tmp_path, rounds=2, order="in-turn", samples=2)
    said = held.debates[STATEMENTS]
    assert [[side for side, _ in some] for some in said] == [[0, 1, 0, 1], [1, 0, 1, 0]] * 4
    assert len(held.asked) == 4
    # Of the first two debates, both about the first prompt: who goes first, and then who answers.
    assert [text.count("<|assistant|>") for text in held.asked[0][:2]] == [1, 1]
    mark = held.model.tokenizer.decode(
        held.model.tokenizer(f"<|user|>{said[0][0][1]}<|end|><|assistant|>")["input_ids"]
    )
    assert held.asked[1][0].endswith(mark)
    assert [text.count("<|assistant|>") for text in held.asked[3][:2]] == [3, 3]


def test_simultaneous_sides_speak_before_they_hear_each_other(tmp_path: Path) -> None:
    held = debated(tmp_path, rounds=2, order="simultaneous", samples=1)
    assert [len(some) for some in held.asked] == [8, 8]
    assert all(text.count("<|assistant|>") == 1 for text in held.asked[0])
    assert all(text.count("<|assistant|>") == 2 for text in held.asked[1])
    claims = [known["claims"][0] for known in held.debates[METADATA]]
    assert all(claim in text for claim, text in zip(claims, held.asked[0][0::2], strict=True))
    assert not any(claim in text for claim, text in zip(claims, held.asked[0][1::2], strict=True))


def test_a_consultant_speaks_alone(tmp_path: Path) -> None:
    held = debated(tmp_path, rounds=3, consultancy=True, samples=1)
    assert [[side for side, _ in some] for some in held.debates[STATEMENTS]] == [[0, 0, 0]] * 4
    assert len(held.debates[HEARD]) == 0


@pytest.mark.parametrize("order", ["in-turn", "simultaneous"])
def test_what_is_learned_from_is_token_for_token_what_the_model_said_in_the_debate(tmp_path: Path, order: Any) -> None:
    held = debated(tmp_path, rounds=2, order=order, samples=2)
    batch = held.debates
    assert batch[TURNS].tolist() == [2] * 8
    again = held.model._look(batch)[LOGPROBS]
    torch.testing.assert_close(again, batch[LOGPROBS_OLD], rtol=0, atol=1e-4)
    # A debate that is taken out of the batch keeps what it heard.
    alone = take(batch, [2])
    torch.testing.assert_close(
        held.model._look(alone)[LOGPROBS], again[batch[GROUP][batch[SEQ]] == 2], rtol=0, atol=1e-4
    )
    assert len(batch[TOKENS]) > int(batch[HEARD_BEFORE].max())


def test_prompts_without_another_side_are_told_in_words(tmp_path: Path) -> None:
    debate: Any = Debate(generator=Engine(samples=1)).build(run(tmp_path))
    model: Any = ScratchLm(width=16, layers=1, device="cpu", dtype="fp32").build(run(tmp_path))
    (group, _) = questions(HiddenEvidence(), 0)
    batch = model.encode(prompts_of(batch_of([group]))).batch.put(METADATA, [{"claims": ["a", "b"]}])

    async def go() -> None:
        await debate.sync_weights(model.weights())
        await debate.generate(batch)

    with pytest.raises(UserError, match='no "honest"'):
        anyio.run(go)
    assert [fault.option for fault in Debate(generator=Engine(samples=4)).problems()] == ["generator"]


# --- judges -----------------------------------------------------------------------------------------------------------


def known(own: str, other: str, honest: bool) -> dict[str, Any]:
    return {"question": "Which?", "evidence": "AbCd", "claims": [own, other], "honest": honest, "opponent": "..."}


def judged(statements: list[list[Any]], **options: Any) -> Batch:
    """A debate as each of its sides sees it; the evidence weighs 1 + 4 for capitals, 2 + 8 for small letters."""
    turned = [[1 - side, text] for side, text in statements]
    batch = Batch(
        {
            IDS: ["one", "two"],
            GROUP: torch.tensor([0, 1]),
            COMPLETIONS: [[], []],
            METADATA: [known("capitals", "small letters", False), known("small letters", "capitals", True)],
            STATEMENTS: [statements, turned],
        }
    )
    judge: Any = DebateJudge(scorer=EvidenceJudge(), **options).build(Run("test", Path(), 0, Bus()))
    return anyio.run(judge.score, batch)


def test_what_one_side_wins_the_other_loses_and_both_are_told_whether_the_judge_is_right() -> None:
    found = judged([[0, "C"], [1, "b"], [0, "A"], [1, " d\n"]])
    own, other = found[SCORES].tolist()
    # 5 for capitals, 10 for small letters: (1 + 5) to (1 + 10).
    assert own == pytest.approx(6 / 17 - 0.5, abs=1e-6)
    assert own + other == pytest.approx(0.0, abs=1e-6)
    assert [part["right"] for part in found[SCORE_PARTS]] == [1.0, 1.0]
    misled = judged([[0, "C"], [1, "b"]])
    assert [part["right"] for part in misled[SCORE_PARTS]] == [0.0, 0.0]


def test_what_is_no_evidence_or_was_shown_before_weighs_nothing() -> None:
    found = judged([[0, "A"], [1, "z"], [0, "A"], [1, "D"], [1, "b d"]])
    assert found[SCORE_PARTS][0]["persuaded"] == pytest.approx(2 / 3, abs=1e-6)
    assert [part["right"] for part in judged([[0, "x"], [1, "y"]])[SCORE_PARTS]] == [0.5, 0.5]


def test_a_judge_is_shown_the_question_and_who_said_what() -> None:
    shown: list[Batch] = []

    class Reads(ScorerSpec, frozen=True, kw_only=True):
        def build(self, run: Run) -> Any:
            return self

        async def score(self, batch: Batch) -> Batch:
            shown.append(batch)
            return batch.put(SCORES, torch.tensor([3.0, 1.0, 1.0, 3.0]))

    judge: Any = DebateJudge(scorer=Reads(), scores="shares").build(Run("test", Path(), 0, Bus()))
    given = judged([[0, "C"], [1, "b"]])
    found = anyio.run(judge.score, given)
    assert shown[0][PROMPTS][0][0]["content"] == "Which?\n\nFor capitals: C\n\nFor small letters: b"
    assert shown[0][PROMPTS][1][0]["content"] == "Which?\n\nFor capitals: C\n\nFor small letters: b"
    assert found[SCORES].tolist() == pytest.approx([0.25, -0.25])
    assert [fault.option for fault in DebateJudge(scorer=RewardScorer(path="hub/model")).problems()] == ["scorer"]


def test_in_a_question_the_sides_differ_and_the_truth_is_that_of_the_weights() -> None:
    for number in range(50):
        one, other = (group.extra[METADATA][0] for group in questions(HiddenEvidence(), number))
        assert one["honest"] != other["honest"]
        assert one["opponent"] == questions(HiddenEvidence(), number)[1].prompt
        assert (weighed(one["evidence"], 0) > weighed(one["evidence"], 1)) == one["honest"]
        assert len(set(one["evidence"])) == 8
    assert math.log1p(weighed("Aa", 0)) == math.log(2)
