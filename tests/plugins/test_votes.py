"""Two answers and what people said of them, as pairs to learn from: votes, strengths, ties, what was shown first."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from hypothesis import given, settings, strategies as st

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import CHOSEN, COMPLETIONS, MARGIN, REJECTED, SCORES, SEQ, SOFT, Batch, fields
from truing.plugins import discover
from truing.recipe import load
from truing.run import Run
from truing.stage import DataInfo
from truing_data.mapping import MappedSource
from truing_data.plugin import Jsonl
from truing_data.rows import BadRow
from truing_data.votes import ballots, compared, decided, majority
from truing_reward.menu_losses import BradleyTerry

QUICK = settings(deadline=None, max_examples=60, database=None)
SHARED = Path(__file__).parents[3] / "shared/data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")

PLAIN: dict[str, Any] = {"first": "a1", "second": "a2", "votes": "votes", "chat": False, "shuffle": False}
ROW = {"prompt": "p", "a1": "one", "a2": "two"}


def source(path: Path, *rows: Mapping[str, Any], **options: Any) -> Jsonl:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Jsonl(path=str(path), **options)


def read(spec: Jsonl) -> tuple[DataInfo, Batch]:
    async def whole() -> tuple[DataInfo, Batch]:
        opened = spec.build(Run("test", Path(), 0, Bus()))
        info = await opened.open()
        (batch,) = [batch async for batch in opened.batches(10**6, 0)]
        return info, batch

    return anyio.run(whole)


def refused(spec: Jsonl) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(spec)
    return [str(problem) for problem in caught.value.problems]


def better(batch: Batch) -> list[Any]:
    return [batch[COMPLETIONS][at] for at in batch[CHOSEN].tolist()]


def voted(*votes: str | list[str], **more: Any) -> list[dict[str, Any]]:
    return [{**ROW, "votes": list(given), **more} for given in votes]


A, B, T = "a1", "a2", "tie"


# What votes come to


def test_the_majority_is_the_chosen_answer_and_ties_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = voted([A, A, B], [B, B, A], [A, B, T], [A, B], [T, T, A], [A, A, T, T, B])
    info, batch = read(source(tmp_path / "a", *rows, **PLAIN))
    assert better(batch) == ["one", "two"]
    assert (info.groups, info.skipped) == (2, 4)
    assert SOFT not in batch
    assert MARGIN not in batch


@pytest.mark.parametrize(
    ("sides", "winner"),
    [
        (["first"], "first"),
        (["first", "second"], "tie"),
        (["first", "tie"], "tie"),
        (["tie", "tie", "first"], "tie"),
        (["first", "first", "second", "tie"], "first"),
    ],
)
def test_a_side_wins_by_having_most_votes_alone(sides: list[Any], winner: str) -> None:
    assert majority(sides) == winner


def test_ties_that_are_kept_are_half_one_and_half_the_other(tmp_path: Path) -> None:
    info, batch = read(source(tmp_path / "a", *voted([A, A, B], [A, B], [B]), **PLAIN, ties="keep"))
    assert batch[SOFT].tolist() == [1.0, 0.5, 1.0]
    assert better(batch) == ["one", "one", "two"]
    assert info.skipped == 0


def test_a_share_of_votes_is_soft_and_that_of_the_better_answer(tmp_path: Path) -> None:
    rows = voted([A, A, B, A], [B, B, A, T], [A, T], [A, B], [T])
    info, batch = read(source(tmp_path / "a", *rows, **PLAIN, verdict="share"))
    assert better(batch) == ["one", "two", "one"]
    assert batch[SOFT].tolist() == [0.75, 0.625, 0.75]
    assert info.skipped == 2, "as many for the one as for the other is a tie"


def test_dawid_and_skene_hear_those_who_agree_and_not_who_votes_at_random(tmp_path: Path) -> None:
    truth = [A if at * 7 % 5 < 2 else B for at in range(60)]
    other = {A: B, B: A}
    rows = [
        {
            **ROW,
            "votes": [[name, side] for name in ("x", "y")]
            + [[name, other[side]] for name in ("u", "v", "w")][at % 4 :],
        }
        for at, side in enumerate(truth)
    ]
    for row in rows[::2]:  # half the time the three are right, so they say nothing
        for vote in row["votes"][2:]:
            vote[1] = row["votes"][0][1]
    path = tmp_path / "a"
    _, by_model = read(source(path, *rows, **PLAIN, verdict="dawid-skene", ties="keep"))
    _, by_majority = read(source(path, *rows, **PLAIN, ties="keep"))
    wanted = ["one" if side == A else "two" for side in truth]
    assert better(by_model) == wanted
    assert better(by_majority) != wanted
    assert by_model[SOFT].min() > 0.6


def test_dawid_and_skene_need_somebody_to_compare_with(tmp_path: Path) -> None:
    (problem,) = refused(source(tmp_path / "a", *voted([A], [B]), **PLAIN, verdict="dawid-skene"))
    assert "no pair has two votes" in problem
    assert 'use verdict = "majority"' in problem


@QUICK
@given(st.lists(st.lists(st.sampled_from([A, B, T]), min_size=2, max_size=6), min_size=3, max_size=8))
def test_it_does_not_matter_which_column_an_answer_is_in(votes: list[list[str]]) -> None:
    turned = {A: B, B: A, T: T}
    for verdict in ("majority", "share", "dawid-skene"):
        found: list[list[Any]] = []
        for exchange in (False, True):
            spec = MappedSource(**{**PLAIN, "shuffle": True}, verdict=verdict, ties="keep")  # type: ignore[arg-type]
            rows = [
                {"prompt": "p", "a1": "two", "a2": "one", "votes": [turned[label] for label in given]}
                if exchange
                else {**ROW, "votes": given}
                for given in votes
            ]
            groups = [compared(row, str(at), spec)[0] for at, row in enumerate(rows)]
            judged, _ = decided(groups, spec, "a")
            found.append([(group.completions[group.pairs[0][0]], group.extra[SOFT][0]) for group in judged])
        for (one, soft), (other, again) in zip(*found, strict=True):
            assert again == pytest.approx(soft, abs=1e-4)
            assert one == other or soft == pytest.approx(0.5, abs=1e-4)


def test_one_vote_a_column_and_one_vote_alone_are_votes_too(tmp_path: Path) -> None:
    rows = [{**ROW, "x": "first", "y": "second", "z": "a1"}, {**ROW, "x": "a2", "y": None, "z": "Second"}]
    several = {**PLAIN, "votes": ["x", "y", "z"]}
    assert better(read(source(tmp_path / "a", *rows, **several))[1]) == ["one", "two"]
    single = {**PLAIN, "votes": "x"}
    assert better(read(source(tmp_path / "a", *rows, **single))[1]) == ["one", "two"]


@pytest.mark.parametrize(
    "given", [[[7, "a1"], ["ann", "tie"]], [{"annotator": 7, "label": "a1"}, {"annotator": "ann", "label": "tie"}]]
)
def test_a_vote_may_name_its_annotator(given: list[Any]) -> None:
    assert ballots({"votes": given}, ["votes"]) == [("7", "a1"), ("ann", "tie")]


def test_labels_are_understood_as_told(tmp_path: Path) -> None:
    rows = voted([0, 0, 2], [1, 1.0, True])  # type: ignore[list-item]
    favours = {"0": "first", "1": "second", "2": "tie", "true": "second"}
    assert better(read(source(tmp_path / "a", *rows, **PLAIN, favours=favours))[1]) == ["one", "two"]


# How much better


def test_a_strength_says_which_is_better_and_becomes_the_margin(tmp_path: Path) -> None:
    rows = [{**ROW, "by": by} for by in (3, -1, 0, [2, 1, 0], [-1, 1])]
    options = {**PLAIN, "votes": None, "strength": "by"}
    info, batch = read(source(tmp_path / "a", *rows, **options, strength_scale=0.5))
    assert better(batch) == ["one", "two", "one"]
    assert batch[MARGIN].tolist() == [1.5, 0.5, 0.5]
    assert info.skipped == 2
    _, turned = read(source(tmp_path / "a", *rows, **options, strength_scale=-1.0, ties="keep"))
    assert better(turned) == ["two", "one", "one", "two", "one"]
    assert turned[SOFT].tolist() == [1, 1, 0.5, 1, 0.5]
    assert turned[MARGIN].tolist() == [3, 1, 0, 1, 0]


# What was shown first


def test_the_help_of_being_shown_first_is_taken_from_the_margin(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "good": "x", "bad": "y", "seen": seen, "by": 2} for seen in ("good", "bad", 1, 2, "second")]
    options: dict[str, Any] = {
        "chosen": "good",
        "rejected": "bad",
        "order": "seen",
        "position_bias": 0.4,
        "shuffle": False,
    }
    spec = source(tmp_path / "a", *rows, **options)
    assert read(spec)[1][MARGIN].tolist() == pytest.approx([-0.4, 0.4, -0.4, 0.4, 0.4])
    spec = source(tmp_path / "a", *rows, **options, margin="by")
    assert read(spec)[1][MARGIN].tolist() == pytest.approx([1.6, 2.4, 1.6, 2.4, 2.4])


def test_of_two_answers_the_first_column_was_shown_first_unless_another_says_so(tmp_path: Path) -> None:
    rows = [*voted([A, A, B], [B, B, A], seen="a1"), *voted([A, A, B], [B, B, A], seen="a2")]
    spec = source(tmp_path / "a", *rows[:2], **PLAIN, verdict="share", position_bias=0.4)
    assert read(spec)[1][MARGIN].tolist() == pytest.approx([-0.4, 0.4])
    spec = source(tmp_path / "a", *rows, **PLAIN, verdict="share", position_bias=0.4, order="seen")
    batch = read(spec)[1]
    assert batch[MARGIN].tolist() == pytest.approx([-0.4, 0.4, 0.4, -0.4])
    assert better(batch) == ["one", "two", "one", "two"]


def slope_of_loss(batch: Batch, quality: float, **options: Any) -> float:
    """The derivative of the Bradley-Terry loss by the reward of the answer "x", where that of "y" is 0."""
    reward = torch.tensor(quality, requires_grad=True)
    scores = torch.stack([reward if text == "x" else reward * 0 for text in batch[COMPLETIONS]])
    loss = BradleyTerry(margin=True, **options).build(Run("test", Path(), 0, Bus()))
    (slope,) = torch.autograd.grad(
        loss(batch.put_all({SCORES: scores, SEQ: torch.arange(len(scores))})).terms["bradley-terry"].total, reward
    )
    return float(slope)


def test_a_reward_model_with_the_margin_learns_quality_without_the_help_of_position(tmp_path: Path) -> None:
    wins, losses, bias = 30, 10, 0.7  # the same answer is always shown first
    left = math.log(wins / losses) - bias
    rows = [{"prompt": "p", "good": "x", "bad": "y", "seen": "good"}] * wins
    rows += [{"prompt": "p", "good": "y", "bad": "x", "seen": "bad"}] * losses
    options: dict[str, Any] = {"chosen": "good", "rejected": "bad", "order": "seen", "position_bias": bias}
    _, batch = read(source(tmp_path / "a", *rows, **options, chat=False))
    assert slope_of_loss(batch, left) == pytest.approx(0, abs=1e-4)
    assert slope_of_loss(batch, left - 0.1) < -0.1
    votes = {"prompt": "p", "a1": "x", "a2": "y", "votes": [A] * wins + [B] * losses}
    _, shares = read(source(tmp_path / "b", votes, **PLAIN, verdict="share", position_bias=bias))
    assert slope_of_loss(shares, left, soft=True) == pytest.approx(0, abs=1e-5)


# What a spec promises, and what it refuses


def test_ties_that_are_kept_are_refused_to_a_loss_that_would_take_one_of_two_equals_for_the_better(
    tmp_path: Path,
) -> None:
    source(tmp_path / "a", ROW)
    recipe = f"""
[source]
use = "jsonl"
path = "{tmp_path}/a"
first = "a1"
second = "a2"
votes = "v"
ties = "keep"
[model]
use = "scratch-lm"
[optimizer]
use = "adamw"
[loss]
use = "dpo"
"""
    (tmp_path / "recipe.toml").write_text(recipe)
    with pytest.raises(UserError) as error:
        load(tmp_path / "recipe.toml", discover())
    assert [problem.what for problem in error.value.problems] == [
        'source "jsonl" insists on `soft`, and the loss does not read it'
    ]
    (tmp_path / "recipe.toml").write_text(recipe.replace('"dpo"', '"dpo-ties"'))
    assert load(tmp_path / "recipe.toml", discover()).phases[0].loss


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"votes": "v"}, fields()),
        ({"votes": "v", "ties": "keep"}, fields(SOFT)),
        ({"votes": "v", "verdict": "share"}, fields(SOFT)),
        ({"votes": "v", "verdict": "dawid-skene"}, fields(SOFT)),
        ({"votes": "v", "verdict": "share", "position_bias": 0.2}, fields(SOFT, MARGIN)),
        ({"strength": "s"}, fields(MARGIN)),
        ({"strength": "s", "ties": "keep"}, fields(SOFT, MARGIN)),
    ],
)
def test_a_batch_of_judged_answers_holds_what_was_promised(
    tmp_path: Path, options: dict[str, Any], more: frozenset[Any]
) -> None:
    rows = [{**ROW, "v": [A, A, B], "s": 2}, {**ROW, "v": [B, B], "s": -1}]
    spec = source(tmp_path / "a", *rows, first="a1", second="a2", **options)
    assert not list(spec.problems())
    assert spec.provides() & fields(SOFT, MARGIN) == more
    batch = read(spec)[1]
    assert fields(*batch) & fields(SOFT, MARGIN) == more
    assert spec.provides() >= fields(CHOSEN, REJECTED)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"first": "a"}, "first: first without second"),
        ({"first": "a", "second": "a", "votes": "v"}, "second: first and second are the same column"),
        ({"first": "a", "second": "b"}, "first: nothing says which of first and second is better"),
        ({"first": "a", "second": "b", "votes": "v", "strength": "s"}, "strength: strength beside votes"),
        ({"first": "a", "second": "b", "votes": "v", "chosen": "c", "rejected": "d"}, "first: first beside chosen"),
        (
            {"first": "a", "second": "b", "votes": "v", "completion": "c"},
            "completion: completion beside first and second",
        ),
        ({"first": "a", "second": "b", "votes": "v", "completions": "c"}, "first: first beside completions"),
        ({"first": "a", "second": "b", "votes": "v", "messages": "c"}, "first: messages and first exclude each other"),
        ({"first": "a", "second": "b", "votes": "v", "soft": "c"}, "soft: soft is about `chosen`"),
        ({"first": "a", "second": "b", "votes": "v", "margin": "c"}, "margin: margin is about `chosen`"),
        (
            {"first": "a", "second": "b", "votes": "v", "pairs_to_labels": True},
            "pairs_to_labels: pairs_to_labels beside",
        ),
        ({"first": "a", "second": "b", "strength": "s", "verdict": "share"}, "verdict: verdict is about votes"),
        ({"first": "a", "second": "b", "strength": "s", "favours": {"1": "first"}}, "favours: favours is about votes"),
        ({"first": "a", "second": "b", "strength": "s", "strength_scale": 0.0}, "strength_scale: strength_scale = 0"),
        ({"first": "a", "second": "b", "votes": "v", "strength_scale": 2.0}, "strength_scale: strength_scale without"),
        ({"votes": "v"}, "votes: votes is about two answers"),
        ({"chosen": "a", "rejected": "b", "ties": "keep"}, "ties: ties is about two answers"),
        ({"chosen": "a", "rejected": "b", "order": "o"}, "order: order has no effect without a position_bias"),
        ({"chosen": "a", "rejected": "b", "position_bias": 0.1}, "position_bias: position_bias, and nothing says"),
        ({"position_bias": 0.1, "order": "o"}, "position_bias: position_bias, and nothing says"),
        ({"first": "a", "second": "b", "votes": "v", "position_bias": 0.1}, "position_bias: position_bias is that of"),
    ],
)
def test_options_that_cannot_go_together_are_told(options: dict[str, Any], said: str) -> None:
    told = [f"{fault.option}: {fault.what}" for fault in MappedSource(**options).problems()]
    assert any(one.startswith(said) for one in told), told


@pytest.mark.parametrize(
    ("row", "what", "mend"),
    [
        ({"a1": "x", "a2": "y", "votes": ["a3"]}, 'which answer is the vote "a3" for?', "favours = {"),
        ({"a1": "x", "a2": "y", "votes": [0]}, 'which answer is the vote "0" for?', "favours = {"),
        ({"a1": "x", "a2": "y", "votes": []}, "nobody voted", "leave such rows out"),
        ({"a1": "x", "a2": "y", "votes": [None]}, "nobody voted", ""),
        ({"a1": "x", "a2": "y", "votes": [[1, "a1"], [1, "a1"]]}, 'annotator "1" votes twice', "one vote each"),
        ({"a1": "x", "a2": "y", "votes": [{"who": 1}]}, '"votes", vote 1 is [None, None]', "[annotator, label]"),
        ({"a1": "x", "a2": "y", "votes": [float("nan")]}, '"votes", vote 1 is no label', "[annotator, label]"),
        ({"a1": "x", "a2": "y"}, 'no column "votes"', "columns here: prompt, a1, a2"),
        ({"a1": "x", "a2": "x", "votes": ["a1"]}, '"a1" and "a2" are equal', "a pair needs a difference"),
    ],
)
def test_a_row_of_votes_that_is_no_use_says_why(row: dict[str, Any], what: str, mend: str) -> None:
    with pytest.raises(BadRow) as caught:
        compared({"prompt": "p", **row}, "a:1", MappedSource(**PLAIN))
    assert what in caught.value.what
    assert mend in caught.value.mend


def test_unusable_votes_are_named_by_their_line_or_left_out(tmp_path: Path) -> None:
    rows = [*voted([A], ["a3"], [A, B])]
    spec = source(tmp_path / "a", *rows, **PLAIN)
    assert refused(spec)[0].startswith(f'{tmp_path / "a"}:2  which answer is the vote "a3" for?')
    info, _ = read(source(tmp_path / "a", *rows, **PLAIN, on_bad="skip"))
    assert (info.groups, info.skipped) == (1, 2)


def test_pairs_that_are_all_tied_leave_nothing(tmp_path: Path) -> None:
    (problem,) = refused(source(tmp_path / "a", *voted([A, B], [T]), **PLAIN))
    assert "all 2 pairs are tied" in problem
    assert 'ties = "keep" keeps them' in problem


@real
def test_pandalm_is_data_to_learn_from_as_it_stands() -> None:
    spec = Jsonl(
        path=str(SHARED / "pandalm.jsonl"),
        prompt="instruction",
        first="response1",
        second="response2",
        votes="votes",
        favours={"0": "tie", "1": "first", "2": "second"},
        verdict="dawid-skene",
        on_bad="skip",
    )
    assert not list(spec.problems())
    info, batch = read(spec)
    assert (info.groups, info.skipped) == (428, 72), "26 with an empty text, 46 ties"
    assert batch[SOFT].mean() > 0.97
