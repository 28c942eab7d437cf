"""Judges as scorers: who is asked what, what it comes to, and that what was said is what the model holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from truing.errors import UserError
from truing.fields import (
    ANSWERS,
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    PROMPTS,
    REJECTED,
    SCORE_PARTS,
    SCORES,
    SOFT,
    TOKENS,
    Batch,
)
from truing.run import Run
from truing.sampling import numbers_of
from truing.testing import check_spec
from truing_generate.plugin import Engine, Scripted
from truing_model.plugin import CausalLm, RewardModel
from truing_reward import judge_prompts as prompts
from truing_reward.judge import Comparer, Rater
from truing_reward.judge_asking import InProcess, Layout, Question, thinking, turns
from truing_reward.judge_verdicts import Verdict, exclusive
from truing_reward.menu_judge import VERDICTS, Judge, OpenAiJudge
from truing_reward.menu_mix import Mix
from truing_tensor.groups import take

from .conftest import Recorder

ANY = CausalLm(path="organisation/model")


def texts(*groups: list[str], answers: list[str] | None = None) -> Batch:
    """Completions of some prompts."""
    return Batch(
        {
            IDS: [f"p{at}" for at in range(len(groups))],
            PROMPTS: [[{"role": "user", "content": f"question {at}?"}] for at in range(len(groups))],
            COMPLETIONS: [text for group in groups for text in group],
            GROUP: torch.tensor([at for at, group in enumerate(groups) for _ in group], dtype=torch.int64),
            ANSWERS: answers or ["" for _ in groups],
        }
    )


class Planted:
    """A judge whose opinion is known: the chances of a verdict follow from what it is shown. asked: all questions."""

    def __init__(self, opinion: Callable[[str], Verdict]) -> None:
        self._opinion = opinion
        self.asked: list[Question] = []

    async def ask(self, questions: Sequence[Question]) -> list[Verdict]:
        self.asked += questions
        return [self._opinion(each.shown) for each in questions]


def lengths(shown: str) -> Verdict:
    """Holds the longer answer to be better, and leans to the first."""
    first, second = shown.split("Answer A:\n")[1].split("Answer B:\n")
    lead = 0.1 * (len(first) - len(second.split("\n\n")[0]) - 2) + 0.7
    chance = 1 / (1 + 2.718281828459045**-lead)
    return Verdict((chance, 1 - chance), 0.9, 10)


def run_in(folder: Path, seed: int = 0) -> Run:
    return Run("test", folder, seed, Recorder())


def compared(folder: Path, batch: Batch, opinion: Callable[[str], Verdict] = lengths, **options: Any) -> Any:
    """What a planted judge makes of a batch, and the scorer."""
    scorer = Comparer(Judge(model=ANY, **options), run_in(folder), Planted(opinion))
    return anyio.run(scorer.score, batch), scorer


# --- what verdicts come to --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [Judge, OpenAiJudge])
def test_judges_keep_their_promises(spec: Any) -> None:
    check_spec(spec, **({"model": ANY} if spec is Judge else {}))


def test_every_two_completions_are_compared_in_both_orders(tmp_path: Path) -> None:
    batch, scorer = compared(tmp_path, texts(["a", "bbbbbb", "ccc"], ["x", "yy"]))
    assert [each.name for each in scorer._asker.asked] == [
        *("p0/0>1", "p0/1>0", "p0/0>2", "p0/2>0", "p0/1>2", "p0/2>1", "p1/0>1", "p1/1>0")
    ]
    scores = batch[SCORES].tolist()
    assert scores[1] > scores[2] > scores[0]
    assert scores[4] > 0.5 > scores[3]
    assert sum(scores[:3]) == pytest.approx(1.5)
    assert sum(scores[3:]) == pytest.approx(1.0)


def test_a_lean_to_the_first_does_not_reach_the_scores_and_is_reported(tmp_path: Path) -> None:
    batch, _ = compared(tmp_path, texts(["abc", "xyz"]))
    assert batch[SCORES].tolist() == pytest.approx([0.5, 0.5])
    assert batch[SCORE_PARTS][0] == pytest.approx(
        {"consistency": 0, "first_choice": 1, "position_bias": 0.7, "mass": 0.9, "missing": 0, "judge_tokens": 20}
    )


def test_what_is_reported_leaves_out_completions_of_which_nothing_is_known(tmp_path: Path) -> None:
    batch, _ = compared(tmp_path, texts(["abc", "xyz"], ["same", "same"]))
    told = numbers_of(batch.put(TOKENS, torch.zeros(4)))
    assert told["score/position_bias"] == pytest.approx(0.7)
    assert told["score/first_choice"] == 1


def test_a_pair_of_each_comparison_says_which_is_better_and_how_surely(tmp_path: Path) -> None:
    batch, _ = compared(tmp_path, texts(["a", "bbbbbb", "a"], ["same", "same"]), label_pairs=True)
    # What says the same is not compared, and is no pair.
    assert (batch[CHOSEN].tolist(), batch[REJECTED].tolist()) == ([1, 1], [0, 2])
    sure = [row["prefer"] if row["first"] else 1 - row["prefer"] for row in rows(batch)]
    assert batch[SOFT].tolist() == pytest.approx(sure)
    assert batch[SCORES].tolist()[3:] == [0.5, 0.5]
    assert batch[SCORE_PARTS][3] == {}
    alone = take(batch, [1])
    assert len(alone[SOFT]) == len(alone[CHOSEN]) == 0


def test_a_label_is_no_surer_than_it_may_be_and_what_was_said_is_kept(tmp_path: Path) -> None:
    some = texts(["a", "bbbbbbbbbbbbbbbbbbbb", "ab"])
    batch, _ = compared(tmp_path, some, label_pairs=True)
    clamped, _ = compared(tmp_path, some, label_pairs=True, clamp=0.4)
    assert clamped[SOFT].tolist() == pytest.approx([min(0.6, soft) for soft in batch[SOFT].tolist()])
    assert clamped[SOFT].min() < 0.6 < batch[SOFT].max()
    assert clamped[VERDICTS] == batch[VERDICTS]


def rows(batch: Batch) -> list[dict[str, Any]]:
    return [row for group in batch[VERDICTS] for row in group]


def test_every_verdict_is_kept_with_its_criterion_and_its_cost(tmp_path: Path) -> None:
    batch, _ = compared(tmp_path, texts(["a", "bb"]))
    (row,) = rows(batch)
    assert (row["first"], row["second"], row["tokens"], row["missing"]) == (0, 1, 20, ["", ""])
    assert row["criterion"] == prompts.CRITERIA["helpful"]
    assert row["prefer"] == pytest.approx((row["forward"][0] + row["backward"][1]) / 2)


def test_completions_can_be_compared_with_the_answer_that_came_with_the_prompt(tmp_path: Path) -> None:
    batch, scorer = compared(tmp_path, texts(["a", "eeeeeeee", "bbb"], answers=["bbb"]), form="answer")
    assert [each.name for each in scorer._asker.asked] == ["p0/0>answer", "p0/answer>0", "p0/1>answer", "p0/answer>1"]
    low, high, equal = batch[SCORES].tolist()
    assert low < equal < high
    assert equal == 0.5
    assert rows(batch)[0]["second"] is None
    assert "answers" in {field.name for field in Judge(model=ANY, form="answer").requires()}


def test_points_are_expected_ratings_and_one_that_is_missing_says_nothing(tmp_path: Path) -> None:
    def rate(shown: str) -> Verdict:
        if "none" in shown:
            return Verdict((), 0.1, 5, "unclear", "The answer")
        return Verdict((0.0, 1.0, 0.0), 0.9, 5) if "bad" not in shown else Verdict((0.5, 0.5, 0.0), 0.9, 5)

    spec = Judge(model=ANY, form="points", points=3)
    batch = anyio.run(Rater(spec, run_in(tmp_path), Planted(rate)).score, texts(["good", "bad", "none"], ["none"]))
    assert batch[SCORES].tolist() == pytest.approx([0, -0.5, -0.25, 0])
    assert [row["completion"] for row in rows(batch)] == [0, 1, 2, 0]
    assert batch[SCORE_PARTS][1] == pytest.approx({"missing": 0, "mass": 0.9, "judge_tokens": 5, "spread": 0.5})


def test_a_criterion_is_drawn_for_each_comparison_by_the_seed_and_the_texts(tmp_path: Path) -> None:
    some = ["harmless", "which is funnier to read", "which is shorter by words"]
    batch, scorer = compared(tmp_path, texts(*[[f"a{at}", f"b{at}"] for at in range(30)]), criteria=some)
    drawn = [row["criterion"] for row in rows(batch)]
    assert set(drawn) == {prompts.CRITERIA["harmless"], *some[1:]}
    for row, (one, other) in zip(drawn, zip(*[iter(scorer._asker.asked)] * 2, strict=True), strict=True):
        assert row in one.shown
        assert row in other.shown
    turned, _ = compared(tmp_path, texts(*[[f"b{at}", f"a{at}"] for at in range(30)]), criteria=some)
    assert [row["criterion"] for row in rows(turned)] == drawn


def test_a_constitution_says_what_is_judged_by(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    asked = ["which is kinder to read", "which is shorter to read"]
    file.write_text(
        "".join(
            f'[[principle]]\nid = "{at}"\ncritique = "find {at}"\nrevision = "mend"\ncomparison = "{by}"\n'
            for at, by in enumerate(asked)
        )
    )
    batch, _ = compared(tmp_path, texts(*[[f"a{at}", f"b{at}"] for at in range(20)]), constitution=str(file))
    assert {(row["principle"], row["criterion"]) for row in rows(batch)} == {
        (str(at), by) for at, by in enumerate(asked)
    }
    (fault,) = Judge(model=ANY, constitution=str(file), criteria=["helpful"]).problems()
    assert fault.option == "criteria"
    (fault,) = Judge(model=ANY, constitution=str(tmp_path / "none.toml")).problems()
    assert (fault.option, "No such file" in fault.what) == ("constitution", True)


def test_one_completion_alone_is_no_pair(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'p0 has one completion, and nothing to compare it with\n.*form = "points"'):
        compared(tmp_path, texts(["a"]))


def test_verdicts_that_are_missing_are_told_and_end_the_run_when_they_are_many(tmp_path: Path) -> None:
    def silent(shown: str) -> Verdict:
        return Verdict((), 0.2, 1, "unclear", "I think") if "x" in shown.split("Answer A:")[1] else lengths(shown)

    few = texts(*[["a", "b"]] * 14, ["x", "b"])
    batch, scorer = compared(tmp_path, few, silent)
    assert batch[SCORES].tolist()[-2:] == [0.5, 0.5]
    (told,) = scorer._run.bus.said
    assert told.startswith("judge: 2 of 30 verdicts are missing: 2 where it would rather have said something else")
    assert 'as in "I think"' in told
    with pytest.raises(UserError, match=r"judge\"  20 of 40 verdicts are missing: .*; at most 20% may be"):
        compared(tmp_path, texts(*[["a", "b"]] * 10, *[["x", "b"]] * 10), silent)


# --- a model in this process ------------------------------------------------------------------------------------------


def judge(llama: Path, **options: Any) -> Judge:
    return Judge(model=CausalLm(path=str(llama), dtype="fp32", device="cpu"), least_mass=0.0, **options)


def next_chances(llama: Path, tokens: list[int]) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0, -1].double().softmax(0)


def test_a_verdict_is_the_models_probability_of_the_letter_in_either_order(tmp_path: Path, llama: Path) -> None:
    spec = judge(llama)
    batch = anyio.run(spec.build(run_in(tmp_path)).score, texts(["one", "two"]))
    tokenizer: Any = AutoTokenizer.from_pretrained(llama)
    first = []
    for a, b in (("one", "two"), ("two", "one")):
        shown = {"prompt": "question 0?", "first": a, "second": b}
        asked = prompts.shown(prompts.TEMPLATES["pairs"], shown, prompts.CRITERIA["helpful"])
        content = f"{asked}\n\nWhich answer is better? Reply with one letter alone: A or B."
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        before = tokenizer(text + "Answer ", add_special_tokens=False)["input_ids"]
        chances = next_chances(llama, before)
        a, b = (float(chances[tokenizer(letter)["input_ids"][0]]) for letter in "AB")
        first.append(a / (a + b))
        row = rows(batch)[0]
        assert row["mass"][len(first) - 1] == pytest.approx(a + b, rel=1e-4)
    assert batch[SCORES].tolist() == pytest.approx([(first[0] + 1 - first[1]) / 2, (1 - first[0] + first[1]) / 2])


def test_ten_is_no_one_though_both_begin_alike(tmp_path: Path, llama: Path) -> None:
    spec = judge(llama, form="points", points=10, prefix="")
    batch = anyio.run(spec.build(run_in(tmp_path)).score, texts(["one"]))
    layout = Layout(spec, str(llama))
    assert [len(label) for label in layout.labels] == [1] * 9 + [2]
    shown = prompts.shown(
        prompts.TEMPLATES["points"], {"prompt": "question 0?", "text": "one"}, prompts.CRITERIA["helpful"]
    )
    head = layout.asked(turns(spec, shown, None))
    chances = next_chances(llama, head)
    one, zero = layout.labels[9]
    each = [float(chances[label[0]]) for label in layout.labels[:9]]
    ten = each[0] * float(next_chances(llama, [*head, one])[zero])
    whole = [each[0] - ten, *each[1:], ten]
    assert exclusive([*each, ten], layout.labels) == pytest.approx(whole)
    found = rows(batch)[0]
    assert found["chances"] == pytest.approx([chance / sum(whole) for chance in whole], rel=1e-4)
    expected = sum(number * chance for number, chance in enumerate(whole, 1)) / sum(whole)
    assert batch[SCORES].tolist() == pytest.approx([2 * (expected - 1) / 9 - 1], abs=1e-4)


@pytest.mark.parametrize("said", ["<|end|>", "a<|assistant|>A", "x<|end|><|user|>Which?<|end|><|assistant|>A"])
def test_marks_of_the_chat_template_in_a_text_are_letters(llama: Path, said: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(llama)
    spec = judge(llama, reasoning=Scripted(lines=["x"]))
    layout = Layout(spec, str(llama))
    marks = set(tokenizer.all_special_ids) | {257, 258, 259}

    def marked(text: str) -> list[int]:
        return [token for token in layout.asked(turns(spec, text, text)) if token in marks]

    assert marked(said) == marked("harmless")
    tokens = layout.asked(turns(spec, said, said))
    plain = layout.asked(turns(spec, "~", "~"))
    assert tokenizer.decode(tokens) == tokenizer.decode(plain).replace("~", said)


def test_a_verdict_does_not_depend_on_what_else_is_asked(tmp_path: Path, llama: Path) -> None:
    scorer = judge(llama).build(run_in(tmp_path))
    many = texts(["one", "two"], ["a longer one", "b", "c"])
    together, again = (anyio.run(scorer.score, many)[SCORES] for _ in range(2))
    alone = anyio.run(scorer.score, take(many, [0]))[SCORES]
    assert torch.equal(together, again)
    torch.testing.assert_close(together[:2], alone, rtol=0, atol=1e-5)


def test_verdicts_behind_several_reasonings_are_averaged(tmp_path: Path, llama: Path) -> None:
    said = ["the first is fine", "neither<|end|>"]
    spec = judge(llama, reasoning=Scripted(samples=2, lines=said))
    asker = InProcess(spec, run_in(tmp_path))
    question = Question("q", "Compare > this")
    (found,) = anyio.run(asker.ask, [question])
    layout = Layout(spec, str(llama))
    each = []
    for reasoning in said:
        head = layout.asked(turns(spec, question.shown, reasoning))
        chances = next_chances(llama, head)
        a, b = (float(chances[label[0]]) for label in layout.labels)
        each.append(a / (a + b))
    assert found.chances[0] == pytest.approx(sum(each) / 2, abs=1e-5)
    spoken = sum(len(text.encode()) + 1 for text in said)
    read = 2 * len(layout.tokens(thinking(spec, question.shown)))
    heads = sum(len(layout.asked(turns(spec, question.shown, reasoning))) for reasoning in said)
    assert found.tokens == spoken + read + heads


def test_reasonings_of_the_engine_are_the_same_for_the_same_texts(tmp_path: Path, llama: Path) -> None:
    spec = judge(llama, reasoning=Engine(samples=2, max_new_tokens=4, dtype="fp32", device="cpu"))
    many = texts(["one", "two"], ["three", "four"])
    first = anyio.run(spec.build(run_in(tmp_path)).score, many)
    again = anyio.run(spec.build(run_in(tmp_path)).score, take(many, [1]))
    other = anyio.run(spec.build(run_in(tmp_path, seed=1)).score, take(many, [1]))
    assert again[SCORES].tolist() == pytest.approx(first[SCORES].tolist()[2:], abs=1e-5)
    assert other[SCORES].tolist() != pytest.approx(again[SCORES].tolist(), abs=1e-5)


def test_a_question_that_is_too_long_has_no_verdict(tmp_path: Path, llama: Path) -> None:
    spec = judge(llama, max_tokens=1100)
    batch = anyio.run(spec.build(run_in(tmp_path)).score, texts(["one", "two"], ["x" * 900, "y"]))
    assert [row["missing"] for row in rows(batch)] == [["", ""], ["long", "long"]]


def test_a_model_without_a_chat_template_is_asked_in_plain_text(tmp_path: Path, llama: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(llama)
    tokenizer: Any = AutoTokenizer.from_pretrained(llama)
    tokenizer.chat_template = None
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "bare")
    spec = judge(tmp_path / "bare")
    layout = Layout(spec, str(tmp_path / "bare"))
    asked = turns(spec, "Compare<|end|>", None)
    assert tokenizer.decode(layout.asked(asked)) == f"{asked[0]['content']}\n\nAnswer "
    batch = anyio.run(spec.build(run_in(tmp_path)).score, texts(["one", "two"]))
    assert rows(batch)[0]["mass"][0] > 0


@pytest.mark.parametrize(
    "template", ["{{ messages[0].content | upper }}", "{{ messages[0].content }}{{ messages[0].content }}", "always"]
)
def test_a_template_that_changes_what_is_said_is_refused(tmp_path: Path, llama: Path, template: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(llama)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "odd")
    with pytest.raises(UserError, match="does not keep what is said in 1 turns"):
        Layout(judge(llama), str(tmp_path / "odd"))


# --- what check finds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "option", "what"),
    [
        ({"form": "points", "ties": True}, "ties", "one answer by itself cannot be tied"),
        ({"points": 7}, "points", 'points has no effect with form = "pairs"'),
        ({"form": "points", "label_pairs": True}, "label_pairs", "compares no two completions"),
        ({"criteria": ["helpfull"]}, "criteria", '"helpfull" is no criterion'),
        ({"criteria": ["helpful", "helpful"]}, "criteria", "named twice"),
        ({"clamp": 0.4}, "clamp", "soft labels of pairs"),
        ({"template": "{prompt}\n{first}"}, "template", "no place for {second}"),
        ({"question": "Which? Say A."}, "question", "a verdict is called B"),
        ({"think": "Think."}, "think", "no [scorer.reasoning]"),
        ({"model": RewardModel(path="organisation/model")}, "model", "gives no log-probabilities"),
    ],
)
def test_options_that_cannot_be_are_told(options: dict[str, Any], option: str, what: str) -> None:
    faults = list(Judge(**{"model": ANY, **options}).problems())
    assert [fault.option for fault in faults] == [option]
    assert what in faults[0].what


def test_a_judge_in_a_mix_tells_how_far_to_trust_it(tmp_path: Path, llama: Path) -> None:
    spec = Mix(of={"kind": judge(llama)}, weights={"kind": 2.0})
    batch = anyio.run(spec.build(run_in(tmp_path)).score, texts(["one", "two"]))
    assert batch[SCORE_PARTS][0]["kind"] == pytest.approx(batch[SCORES][0].item() / 2)
    assert "kind/consistency" in batch[SCORE_PARTS][0]
