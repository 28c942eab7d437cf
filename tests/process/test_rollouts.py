"""Steps judged by rollouts, in a world where the chance of every step is known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.process.world import BYTES, Judge, Writer

from truing.bus import Bus
from truing.events import Notice
from truing.fields import (
    ANSWERS,
    COMPLETIONS,
    GROUP,
    IDS,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SCORES,
    STEP_END,
    STEP_INDEX,
    STEP_LABELS,
    STEP_SEQ,
    STEPS,
    TOKENS,
    Batch,
)
from truing.journal import PhaseFolder
from truing.run import Run
from truing_reward.menu_rollouts import ROLLOUT_TOKENS, STEP_HIGH, STEP_LOW, STEP_ROLLOUTS, STEP_SOLVED, StepRollouts
from truing_reward.rollouts import interval, label_of
from truing_reward.trials import Tally


@pytest.fixture(scope="module")
def bytes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bytes")
    BYTES.save_pretrained(folder)
    return folder


def questions(count: int, chat: bool = False) -> Batch:
    """Prompts as a generator is handed them."""
    tokens = [BYTES(f"q{at}?", add_special_tokens=False)["input_ids"] for at in range(count)]
    return Batch(
        {
            IDS: [f"p{at}" for at in range(count)],
            PROMPTS: [[{"role": "user", "content": f"q{at}?"}] if chat else f"q{at}?" for at in range(count)],
            ANSWERS: [f"answer {at}" for at in range(count)],
            GROUP: torch.zeros(0, dtype=torch.int64),
            COMPLETIONS: [],
            PROMPT_TOKENS: torch.tensor([token for part in tokens for token in part]),
            PROMPT_GROUP: torch.tensor([at for at, part in enumerate(tokens) for _ in part]),
        }
    )


def judged(
    folder: Path, writer: Writer, count: int = 1, chat: bool = False, seed: int = 0, **options: Any
) -> tuple[Batch, Any]:
    """What `step-rollouts` makes of so many questions, and itself."""
    made: Any = StepRollouts(generator=writer, scorer=Judge(), **options).build(Run("test", folder, seed, Bus()))

    async def generate() -> Batch:
        await made.sync_weights(SimpleNamespace(origin=str(folder), version=0))
        return await made.generate(questions(count, chat))

    return anyio.run(generate), made


def labels(batch: Batch) -> list[dict[int, float]]:
    """Of each solution, the labels of its judged steps."""
    found: list[dict[int, float]] = [{} for _ in batch[GROUP]]
    of_steps = zip(*(batch[key].tolist() for key in (STEP_SEQ, STEP_INDEX, STEP_LABELS)), strict=True)
    for seq, index, label in of_steps:
        found[seq][index] = label
    return found


def test_the_share_that_comes_out_right_is_that_of_the_world(bytes_folder: Path) -> None:
    batch, _ = judged(bytes_folder, Writer(samples=8, good=0.8), count=4, rollouts=200, label="soft")
    intervals = zip(batch[STEP_LOW].tolist(), batch[STEP_HIGH].tolist(), strict=True)
    met = [
        low <= (0.8 ** (3 - index) if "x" not in batch[STEPS][seq][: index + 1] else 0.0) <= high
        for seq, index, (low, high) in zip(batch[STEP_SEQ].tolist(), batch[STEP_INDEX].tolist(), intervals, strict=True)
    ]
    assert len(met) == 4 * 8 * 4
    # Of intervals of 95 %, with 96 of them measured, fewer than 90 % are right once in a thousand worlds.
    assert sum(met) / len(met) > 0.9
    for seq, known in enumerate(labels(batch)):
        for index, label in known.items():
            truth = 0.8 ** (3 - index) if "x" not in batch[STEPS][seq][: index + 1] else 0.0
            assert label == pytest.approx(truth, abs=0.15)


def test_a_step_that_cannot_be_mended_is_labelled_wrong_and_what_follows_too(bytes_folder: Path) -> None:
    writer = Writer(samples=1, begins=["g\nx\ng\ng"], good=0.9)
    batch, made = judged(bytes_folder, writer, rollouts=16, label="hard")
    assert batch[STEPS] == [["g", "x", "g", "g"]]
    assert labels(batch) == [{0: 1.0, 1: 0.0, 2: 0.0, 3: 0.0}]
    assert batch[STEP_ROLLOUTS].tolist() == [16, 16, 16, 0]
    assert batch[STEP_SOLVED].tolist()[1:] == [0, 0, 0]
    assert batch[STEP_LOW][3] == batch[STEP_HIGH][3] == 0.0
    assert all(text.startswith("g\n") for text in made._scorer.seen)


@given(st.lists(st.text("gx", min_size=1, max_size=9), min_size=1, max_size=4), st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_binary_search_finds_the_first_error_that_trying_every_step_finds(
    bytes_folder: Path, drawn: list[str], seed: int
) -> None:
    """Where wrong steps are never mended and a right one nearly always finishes, what is measured is monotone."""
    begins = ["\n".join(text) for text in drawn]
    writer = Writer(samples=len(drawn), begins=begins, good=0.999, steps=9)
    every, _ = judged(bytes_folder, writer, seed=seed, rollouts=4, label="hard")
    halved, made = judged(bytes_folder, writer, seed=seed, rollouts=4, label="hard", search="binary")
    for text, whole, known in zip(drawn, labels(every), labels(halved), strict=True):
        error = text.find("x")
        assert [step for step, label in sorted(whole.items()) if not label][:1] == ([error] if error >= 0 else [])
        assert known == {step: label for step, label in whole.items() if error < 0 or step <= error}
    wrong = sum("x" in text for text in drawn)
    tried = {name.partition("#")[0] for call in made._generator.asked[1:] for name in call}
    assert len(tried) <= wrong * 4  # ceil(log2 9)


def test_rollouts_go_on_from_the_tokens_of_prompt_and_solution(bytes_folder: Path) -> None:
    batch, made = judged(bytes_folder, Writer(samples=2, steps=3), count=2, rollouts=4, chat=True)
    solutions, prefixes = made._generator.asked
    assert solutions == ["p0", "p1"]
    assert prefixes[:4] == ["p0/0/0#0", "p0/0/0#1", "p0/0/1#0", "p0/0/1#1"]
    assert len(prefixes) == 2 * 2 * 2 * 2
    assert len(batch[IDS]) == 2
    assert batch[STEP_ROLLOUTS].tolist() == [4, 4, 0] * 4
    assert batch[SCORES].tolist() == [float("x" not in text) for text in batch[COMPLETIONS]]


def test_steps_end_among_the_tokens_of_their_solution(bytes_folder: Path) -> None:
    batch, _ = judged(bytes_folder, Writer(samples=2, begins=["g\ngg\ng", "g"]))
    assert batch[STEP_END].tolist() == [1, 4, 6, 8]
    assert len(batch[TOKENS]) == 9


def test_what_a_solution_was_cut_in_is_no_step_and_the_one_before_it_is_tried(bytes_folder: Path) -> None:
    writer = Writer(samples=3, begins=["g\ngg\nx", "x\n", "g"], cuts=True, good=1.0)
    for options in ({}, {"label": "hard", "search": "binary"}):
        batch, _ = judged(bytes_folder, writer, rollouts=3, **options)
        assert batch[STEPS] == [["g", "gg"], ["x"], []]
        assert batch[STEP_END].tolist() == [1, 4, 7]
        assert labels(batch) == [{0: 1.0, 1: 1.0}, {0: 0.0}, {}]
        # Halving tries the second step alone: where it can come out right, so could the first.
        assert batch[STEP_ROLLOUTS].tolist() == ([3, 3, 3] if not options else [0, 3, 3])


def test_the_same_seed_draws_the_same_labels_whatever_else_is_asked(bytes_folder: Path) -> None:
    alone, _ = judged(bytes_folder, Writer(), count=1)
    beside, _ = judged(bytes_folder, Writer(), count=3)
    size = len(alone[STEP_LABELS])
    assert torch.equal(alone[STEP_LABELS], beside[STEP_LABELS][:size])
    other, _ = judged(bytes_folder, Writer(), count=1, seed=1)
    assert not torch.equal(alone[STEP_LABELS], other[STEP_LABELS])


def test_a_budget_ends_the_trying_and_the_rest_is_not_judged(bytes_folder: Path) -> None:
    writer = Writer(samples=1, begins=["g\nx\ng\ng", "g\nx\ng\ng"])
    free, _ = judged(bytes_folder, writer, count=2, rollouts=4)
    held, _ = judged(bytes_folder, writer, count=2, rollouts=4, budget=1)
    assert [sorted(known) for known in labels(free)] == [[0, 1, 2, 3]] * 2
    assert [sorted(known) for known in labels(held)] == [[0, 3]] * 2
    # Four rollouts of three steps more, each with its end token.
    assert held[ROLLOUT_TOKENS].tolist() == [4 * 6, 4 * 6]
    assert free[ROLLOUT_TOKENS].tolist() == [4 * 6 + 4 * 4 + 4 * 2] * 2


def test_a_budget_of_the_phase_goes_to_one_prompt_after_the_other_and_says_where_it_ends(bytes_folder: Path) -> None:
    writer = Writer(samples=1, begins=["g\nx\ng\ng"] * 3)
    free, _ = judged(bytes_folder, writer, count=3, rollouts=4)
    cost = int(free[ROLLOUT_TOKENS][0])
    for budget, tried in ((1, 1), (cost, 1), (cost + 1, 2), (3 * cost, 3)):
        held, made = judged(bytes_folder, writer, count=3, rollouts=4, phase_budget=budget)
        assert held[ROLLOUT_TOKENS].tolist() == [cost] * tried + [0] * (3 - tried)
        assert labels(held) == labels(free)[:tried] + [{3: 0.0}] * (3 - tried)
        again = anyio.run(made.generate, questions(2))
        assert bool(again[ROLLOUT_TOKENS].sum()) == (tried * cost < budget)


def test_a_search_under_a_budget_of_the_phase_still_says_what_follows_without_rollouts(bytes_folder: Path) -> None:
    writer = Writer(samples=1, begins=["g\nx\ng\ng", "g\ng\ng\ng", "g\nx\ng\ng"], good=1.0)
    options: dict[str, Any] = {"rollouts": 4, "label": "hard", "search": "binary"}
    free, _ = judged(bytes_folder, writer, count=3, **options)
    held, _ = judged(bytes_folder, writer, count=3, phase_budget=1, **options)
    assert labels(held) == [*labels(free)[:2], {3: 0.0}]


def test_what_a_phase_spent_before_it_was_interrupted_counts_and_is_said(bytes_folder: Path, tmp_path: Path) -> None:
    written = [{"id": "a", "rollout_tokens": 30}, {"id": "b", "rollout_tokens": 7}]
    for batch in (json.dumps(written), "[]"):
        PhaseFolder(tmp_path).add(batch.encode())
    for budget, said in ((37, 1), (38, 0)):
        bus = Bus()
        spec = StepRollouts(generator=Writer(samples=1), scorer=Judge(), rollouts=4, phase_budget=budget)
        made: Any = spec.build(Run("test", tmp_path, 0, bus))

        async def generate(made: Any = made) -> Batch:
            await made.sync_weights(SimpleNamespace(origin=str(bytes_folder), version=0))
            return await made.generate(questions(1))

        with bus.subscribe(Notice) as notices:
            assert bool(anyio.run(generate)[ROLLOUT_TOKENS].sum()) == (not said)
            assert notices.statistics().current_buffer_used == said
            if said:
                text = "37 tokens of rollouts have used up the phase's budget of 37: 1 prompts of this batch get none"
                assert notices.receive_nowait().text == text
        bus.close()


def test_a_search_that_a_budget_ends_says_no_more_than_it_knows(bytes_folder: Path) -> None:
    writer = Writer(samples=1, begins=["\n".join("ggggggxg")], steps=8, good=1.0)
    held, _ = judged(bytes_folder, writer, label="hard", search="binary", budget=1)
    assert labels(held) == [{0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 7: 0.0}]


def test_a_blank_solution_has_no_steps(bytes_folder: Path) -> None:
    for search in ("all", "binary"):
        batch, _ = judged(bytes_folder, Writer(samples=2, begins=["", "x"]), label="hard", search=search)
        assert batch[STEPS] == [[], ["x"]]
        assert labels(batch) == [{}, {0: 0.0}]


def test_labels_are_hard_soft_or_a_posterior_mean() -> None:
    def label(tally: Tally, kind: Any, **options: Any) -> float:
        return label_of(tally, StepRollouts(generator=Writer(), scorer=Judge(), label=kind, **options))

    tally = Tally(tried=8, solved=1)
    assert [label(tally, kind) for kind in ("hard", "soft", "posterior")] == [1.0, 0.125, 0.2]
    assert label(tally, "posterior", prior=0.5) == pytest.approx(1.5 / 9)
    assert label(Tally(label=1.0), "soft") == 1.0
    assert [label(tally, "hard", least=least) for least in (0.125, 0.13)] == [1.0, 0.0]
    assert label(Tally(tried=8), "hard") == 0.0


@pytest.mark.parametrize(
    ("tried", "solved", "expected"),
    [(10, 5, (0.236593, 0.763407)), (16, 0, (0.0, 0.193611)), (16, 16, (0.806389, 1.0)), (20, 1, (0.008881, 0.236131))],
)
def test_the_interval_is_wilsons(tried: int, solved: int, expected: tuple[float, float]) -> None:
    low, high = interval(Tally(tried=tried, solved=solved))
    assert (low, high) == pytest.approx(expected, abs=1e-5)
    # It is where the share is as far from the observed one as a normal distribution with its own variance allows.
    for bound in (low, high):
        if 0 < bound < 1:
            gap = abs(solved / tried - bound) / (bound * (1 - bound) / tried) ** 0.5
            assert gap == pytest.approx(1.959964, abs=1e-4)


def test_a_share_that_was_not_measured_may_be_anything() -> None:
    assert interval(Tally(label=1.0)) == (0.0, 1.0)
    assert interval(Tally(label=1.0, exact=True)) == (1.0, 1.0)


def test_options_that_contradict_each_other_are_told() -> None:
    spec = StepRollouts(generator=Writer(), scorer=Judge(), search="binary", prior=0.5, least=0.5)
    assert [fault.option for fault in spec.problems()] == ["search", "least", "prior"]
    assert {COMPLETIONS, STEP_LABELS, SCORES} <= spec.provides()
    assert PROMPT_TOKENS in spec.requires()
    assert COMPLETIONS not in spec.requires()
