"""The process reward model: what it reads, what it learns, what it is after it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from tests.process.conftest import solutions, some
from transformers import AutoModelForSequenceClassification

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import (
    COMPLETIONS,
    GROUP,
    IDS,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SCORES,
    SEQ,
    STEP_END,
    STEP_INDEX,
    STEP_LABELS,
    STEP_LOGITS,
    STEP_SCORES,
    STEP_SEQ,
    TOKENS,
    Batch,
)
from truing.run import Run
from truing_model.layout import lengths_of
from truing_model.menu_process import ProcessRewardModel, ProcessScorer
from truing_model.plugin import AdamW
from truing_model.process import ProcessRewardModel as Model, log_odds
from truing_reward.steps import process_bce, process_ce
from truing_tensor.groups import batch_of
from truing_tensor.steps import aggregated


def built(folder: Path, run: Run, **options: Any) -> Model:
    return ProcessRewardModel(path=str(folder), **{"dtype": "fp32", "device": "cpu", **options}).build(run)  # type: ignore[return-value]


def scorer(folder: Path, run: Run, **options: Any) -> Any:
    return ProcessScorer(path=str(folder), **{"dtype": "fp32", "device": "cpu", **options}).build(run)


def scores(model: Model, batch: Batch) -> torch.Tensor:
    model.network.eval()
    with torch.no_grad():
        return model.network(batch)[STEP_SCORES]


@pytest.fixture(scope="module")
def exported(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a process reward model that was taught a little."""
    folder = tmp_path_factory.mktemp("prm")
    run = Run("test", folder, 0, Bus())
    model = built(llama, run, separator=";")
    model.attach(AdamW(lr=1e-2, warmup=0.0).build(run), 2)
    model.learn(model.encode(batch_of(some())).batch, process_bce)
    model.export(folder)
    return folder


@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_a_score_is_read_off_the_last_token_of_the_steps_separator(layout: str, llama: Path, run: Run) -> None:
    model = built(llama, run, layout=layout, separator=" #\n")
    batch = model.encode(batch_of(some())).batch
    found = scores(model, batch)
    prompts = [prompt for prompt, answers in lengths_of(batch) for _ in answers]
    begins = [int((batch[SEQ] < seq).sum()) for seq in range(len(batch[GROUP]))]
    base = model.network.base
    for score, seq, end in zip(found, batch[STEP_SEQ].tolist(), batch[STEP_END].tolist(), strict=True):
        prompt = batch[PROMPT_TOKENS][batch[PROMPT_GROUP] == batch[GROUP][seq]]
        assert len(prompt) == prompts[seq]
        row = torch.cat([prompt, batch[TOKENS][begins[seq] : end + 1]])[None]
        hidden = base.get_decoder()(input_ids=row, use_cache=False).last_hidden_state[0, -1]
        torch.testing.assert_close(score, base.score(hidden)[0], rtol=0, atol=1e-5)


def test_what_comes_later_does_not_change_the_score_of_a_step(llama: Path, run: Run) -> None:
    model = built(llama, run)
    short = scores(model, model.encode(batch_of([solutions("a", "q", ["one", "two"])])).batch)
    longer = scores(model, model.encode(batch_of([solutions("a", "q", ["one", "two", "three"], ["other"])])).batch)
    torch.testing.assert_close(longer[:2], short, rtol=0, atol=1e-5)


def test_a_step_learned_in_pieces_has_the_gradient_of_the_whole(llama: Path, run: Run) -> None:
    found: list[torch.Tensor] = []
    for budget in (24, 10_000):
        model = built(llama, run, micro_tokens=budget)
        model.attach(AdamW(lr=0.0).build(run), 1)
        batch = model.encode(batch_of(some())).batch
        assert (len(model._cut(batch).batches) > 2) == (budget == 24)
        model.learn(batch, process_bce)
        found.append(torch.cat([value.grad.flatten().clone() for value in model.network.parameters()]))  # type: ignore[union-attr]
    assert (found[0] - found[1]).norm() <= 1e-5 * found[1].norm()


@pytest.mark.parametrize("rank", [0, 4])
def test_an_exported_model_says_the_same_and_knows_its_separator(
    rank: int, llama: Path, run: Run, tmp_path: Path
) -> None:
    model = built(llama, run, lora_rank=rank, separator=";")
    model.attach(AdamW(lr=1e-2, warmup=0.0).build(run), 2)
    batch = model.encode(batch_of(some())).batch
    for _ in range(2):
        model.learn(batch, process_bce)
    expected = scores(model, batch)
    (tmp_path / "out").mkdir()
    model.export(tmp_path / "out")
    again = built(tmp_path / "out", run)
    assert again.separator == ";"
    torch.testing.assert_close(scores(again, batch), expected, rtol=0, atol=1e-5)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    whole = torch.cat([batch[PROMPT_TOKENS][batch[PROMPT_GROUP] == 0], batch[TOKENS][batch[SEQ] == 0]])[None]
    last = int((batch[STEP_SEQ] == 0).nonzero().max())
    torch.testing.assert_close(loaded(whole).logits[0, 0], expected[last], rtol=0, atol=1e-5)


def test_it_learns_to_tell_steps_that_are_wrong(llama: Path, run: Run) -> None:
    def steps(at: int, wrong: int) -> list[str]:
        return ["bad" if place == wrong else f"good{place}" for place in range(3)]

    groups = [
        solutions(f"g{at}", "q", steps(at, wrong), labels=[[float(place != wrong) for place in range(3)]])
        for at, wrong in enumerate((0, 1, 2, 3))
    ]
    model = built(llama, run)
    model.attach(AdamW(lr=1e-2, warmup=0.0, schedule="constant").build(run), 20)
    batch = model.encode(batch_of(groups)).batch
    for _ in range(20):
        model.learn(batch, process_bce)
    found = model.measure(batch, process_bce)
    assert found["accuracy"] == found["first_error/erroneous"] == found["first_error/correct"] == 1.0
    assert found["loss"] < 0.2


# --- the scorer -------------------------------------------------------------------------------------------------------


def sampled(model: Model, texts: list[list[str]], end: str = "") -> Batch:
    """Completions as a generator hands them on: prompts and tokens, their end token in them."""
    prompts = [f"question {at}" for at in range(len(texts))]
    flat = [text for some in texts for text in some]
    tokenizer = model.tokenizer

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    closing = [tokenizer.eos_token_id] if end == "end" else []
    tokens = [[*ids(text), *closing] for text in flat]
    starts = [ids(prompt) for prompt in prompts]
    return Batch(
        {
            IDS: [f"p{at}" for at in range(len(texts))],
            PROMPTS: prompts,
            COMPLETIONS: flat,
            GROUP: torch.tensor([at for at, some in enumerate(texts) for _ in some]),
            PROMPT_TOKENS: torch.tensor([token for part in starts for token in part]),
            PROMPT_GROUP: torch.tensor([at for at, part in enumerate(starts) for _ in part]),
            TOKENS: torch.tensor([token for part in tokens for token in part]),
            SEQ: torch.tensor([at for at, part in enumerate(tokens) for _ in part]),
        }
    )


@pytest.mark.parametrize("end", ["", "end"])
def test_sampled_tokens_score_as_the_same_steps_encoded_anew(end: str, exported: Path, run: Run) -> None:
    model = built(exported, run)
    batch = sampled(model, [["one;two;three", "four"], ["five;six;", ";;seven"]], end)
    as_sampled = anyio.run(scorer(exported, run).score, batch)
    anew = anyio.run(scorer(exported, run, tokens="anew").score, batch)
    assert as_sampled[STEP_SEQ].tolist() == anew[STEP_SEQ].tolist() == [0, 0, 0, 1, 2, 2, 3]
    assert as_sampled[STEP_INDEX].tolist() == anew[STEP_INDEX].tolist() == [0, 1, 2, 0, 0, 1, 0]
    torch.testing.assert_close(as_sampled[STEP_SCORES][:6], anew[STEP_SCORES][:6], rtol=0, atol=1e-5)
    stepped = model.encode(batch_of([solutions("x", "question 0", ["one", "two", "three"], ["four"])])).batch
    torch.testing.assert_close(anew[STEP_SCORES][:4], scores(model, stepped), rtol=0, atol=1e-5)


def test_steps_end_among_the_tokens_that_were_sampled(exported: Path, run: Run) -> None:
    batch = sampled(built(exported, run), [["one;two", "x;"]], "end")
    found = anyio.run(scorer(exported, run).score, batch)
    # "one;" ends at 3; "two" and its end token at 7; "x;" at 9, where its end token is the 10th.
    assert found[STEP_END].tolist() == [3, 7, 10]
    assert torch.equal(found[TOKENS], batch[TOKENS])


def test_the_score_of_a_completion_is_that_of_its_steps_together(exported: Path, run: Run) -> None:
    batch = sampled(built(exported, run), [["one;two;three", "four"], ["", ";"]])
    found = anyio.run(scorer(exported, run, aggregate="product", empty=-1.0).score, batch)
    chances = found[STEP_SCORES].sigmoid()
    expected = torch.stack([chances[:3].prod(), chances[3], *torch.tensor([-1.0, -1.0])])
    torch.testing.assert_close(found[SCORES], expected)
    none = sampled(built(exported, run), [[""]], "end")
    for tokens in ("sampled", "anew"):
        assert anyio.run(scorer(exported, run, tokens=tokens).score, none)[SCORES].tolist() == [0.0]


def test_scores_stand_beside_the_labels_of_a_source(exported: Path, run: Run) -> None:
    batch = batch_of(some())
    found = anyio.run(scorer(exported, run, tokens="anew", aggregate="product").score, batch)
    model = built(exported, run)
    assert torch.equal(found[STEP_LABELS], batch[STEP_LABELS])
    stepped = model.encode(batch).batch
    torch.testing.assert_close(found[STEP_SCORES], scores(model, stepped), rtol=0, atol=1e-5)
    # The score of a solution is that of all its steps, judged or not.
    alone = solutions("two", "a long question", ["first", " second", "third."])
    every = scores(model, model.encode(batch_of([alone])).batch)
    torch.testing.assert_close(found[SCORES][2], every.sigmoid().prod(), rtol=1e-4, atol=1e-5)


def test_a_judged_step_that_is_too_long_to_be_scored_is_left_out_with_its_label(exported: Path, run: Run) -> None:
    batch = batch_of([solutions("long", "q", ["one", "a much longer step than there is room for", "three"])])
    found = anyio.run(scorer(exported, run, tokens="anew", max_tokens=10).score, batch)
    assert found[STEP_INDEX].tolist() == [0]
    assert len(found[STEP_LABELS]) == len(found[STEP_SCORES]) == 1


def test_labels_of_steps_that_others_found_do_not_mix_with_scores_of_sampled_ones(exported: Path, run: Run) -> None:
    model = built(exported, run)
    found = anyio.run(scorer(exported, run).score, model.encode(batch_of(some())).batch)
    assert STEP_LABELS not in found
    assert len(found[STEP_SEQ]) == len(found[STEP_SCORES]) == 12


def test_a_model_that_knows_no_steps_is_refused_as_a_scorer(llama: Path, run: Run) -> None:
    with pytest.raises(UserError, match="no process reward model"):
        scorer(llama, run)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("min", [0.25, 0.5, 9.0, 0.75]),
        ("product", [0.25 * 0.75, 0.5, 9.0, 0.75]),
        ("last", [0.75, 0.5, 9.0, 0.75]),
        ("mean", [0.5, 0.5, 9.0, 0.75]),
        ("log-odds", [0.0, 0.0, 9.0, 1.0986122886681098]),
    ],
)
def test_steps_come_to_a_score_as_it_is_defined(how: Any, expected: list[float]) -> None:
    chances = torch.tensor([0.25, 0.75, 0.5, 0.75], dtype=torch.float64)
    found = aggregated(chances.logit(), torch.tensor([0, 0, 1, 3]), 4, how, 9.0)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    none = aggregated(torch.zeros(0), torch.zeros(0, dtype=torch.int64), 2, how, -1.0)
    assert none.tolist() == [-1.0, -1.0]


# --- three classes ----------------------------------------------------------------------------------------------------


def test_a_model_of_three_classes_learns_them_and_its_steps_score_by_what_neutral_counts_as(
    llama: Path, run: Run, tmp_path: Path
) -> None:
    groups = [
        solutions(f"g{at}", "q", ["good", word, "good"], labels=[[1.0, label, 1.0]])
        for at, (word, label) in enumerate((("bad", 0.0), ("so-so", 0.5), ("good", 1.0)))
    ]
    model = built(llama, run, classes=3)
    model.attach(AdamW(lr=1e-2, warmup=0.0, schedule="constant").build(run), 20)
    batch = model.encode(batch_of(groups)).batch
    for _ in range(20):
        model.learn(batch, process_ce)
    assert model.measure(batch, process_ce)["accuracy/class"] == 1.0
    model.network.eval()
    with torch.no_grad():
        logits = model.network(batch)[STEP_LOGITS]
    (tmp_path / "out").mkdir()
    model.export(tmp_path / "out")
    for neutral, chance in (("right", 1 - logits.softmax(1)[:, 0]), ("wrong", logits.softmax(1)[:, 2])):
        made = scorer(tmp_path / "out", run, tokens="anew", neutral=neutral)
        found = anyio.run(made.score, batch_of(groups))[STEP_SCORES]
        torch.testing.assert_close(found.sigmoid(), chance, rtol=1e-4, atol=1e-5)
        assert (found[4] > 0) == (neutral == "right")
    with pytest.raises(UserError, match="its head was made with classes = 3"):
        built(tmp_path / "out", run)


def test_a_model_of_two_classes_is_none_of_three(exported: Path, run: Run) -> None:
    with pytest.raises(UserError, match="its head was made with classes = 2"):
        built(exported, run, classes=3)


def test_log_odds_of_three_logits_are_those_of_their_probabilities() -> None:
    said = torch.tensor([[0.3, -1.0, 2.0], [4.0, 0.1, -0.2]], dtype=torch.float64)
    _, neutral, right = said.softmax(1).unbind(1)
    torch.testing.assert_close(log_odds(said, "right"), (right + neutral).logit())
    torch.testing.assert_close(log_odds(said, "wrong"), right.logit())
    assert torch.equal(log_odds(said[:, :1], "wrong"), said[:, 0])
