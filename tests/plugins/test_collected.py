"""Groups that an earlier phase wrote: every form of them, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import (
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    LABEL,
    MARGIN,
    MISMATCHED,
    PROMPTS,
    RANK,
    REJECTED,
    SOFT,
    Batch,
)
from truing.run import Run
from truing_data.menu_collected import Collected

CHAT = [{"role": "user", "content": "2+2"}]
ROWS = [
    {
        "id": "a",
        "prompt": "1+1",
        "completions": ["2", "3", "2.0"],
        "scores": [1.0, 0.0, 1.0],
        "pairs": [[0, 1], [2, 1]],
    },
    {
        "id": "b",
        "prompt": CHAT,
        "completions": ["5", "4"],
        "scores": [-1.0, 0.5],
        "pairs": [[1, 0]],
        "finish": ["end"] * 2,
    },
    {"id": "c", "prompt": "3+3", "completions": ["7", "8"], "scores": [0.0, 0.0]},
]


def written(folder: Path, *rows: Any, phase: str = "collect") -> Run:
    """A run of which a phase wrote these rows."""
    data = folder / phase / "data"
    data.mkdir(parents=True)
    (data / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run("run", folder, 0, Bus())


def read(run: Run, path: str | list[str] = "@collect", **options: Any) -> tuple[Batch, int]:
    """Everything in one batch, and how many groups were left out."""

    async def whole() -> tuple[Batch, int]:
        source = Collected(path=path, shuffle=False, **options).build(run)
        info = await source.open()
        async for batch in source.batches(info.groups, 0):
            return batch, info.skipped
        raise AssertionError

    return anyio.run(whole)


def test_pairs_are_those_the_phase_chose_with_how_much_better_the_first_scored(tmp_path: Path) -> None:
    batch, skipped = read(written(tmp_path, *ROWS), form="pairs", margins=True)
    assert (batch[IDS], skipped) == (["a", "b"], 1)
    assert batch[CHOSEN].tolist() == [0, 2, 4]
    assert batch[REJECTED].tolist() == [1, 1, 3]
    assert batch[MARGIN].tolist() == [1.0, 1.0, 1.5]
    assert batch[PROMPTS][1] == CHAT
    assert batch[COMPLETIONS][3:] == [[{"role": "assistant", "content": "5"}], [{"role": "assistant", "content": "4"}]]


def test_rankings_share_a_place_where_scores_are_equal_and_leave_out_groups_without_an_order(tmp_path: Path) -> None:
    batch, skipped = read(written(tmp_path, *ROWS), form="rankings")
    assert batch[RANK].tolist() == [0, 1, 0, 1, 0]
    assert (batch[GROUP].tolist(), skipped) == ([0, 0, 0, 1, 1], 1)


def test_labels_part_at_the_threshold(tmp_path: Path) -> None:
    batch, _ = read(written(tmp_path, ROWS[0], ROWS[2]), form="labels", threshold=0.5, mismatched=True)
    assert batch[LABEL].tolist() == [1, 0, 1, 0, 0, 0, 0]
    assert batch[MISMATCHED].tolist() == [0, 0, 0, 1, 0, 0, 1]


def test_the_best_is_a_demonstration_if_it_is_good_enough(tmp_path: Path) -> None:
    run = written(tmp_path, *ROWS)
    assert read(run, form="best")[0][COMPLETIONS] == ["2", [{"role": "assistant", "content": "4"}], "7"]
    batch, skipped = read(run, form="best", threshold=0.5)
    assert (batch[IDS], skipped) == (["a", "b"], 1)


def test_groups_of_several_phases_come_one_after_another_under_names_of_their_own(tmp_path: Path) -> None:
    run = written(tmp_path, ROWS[0], ROWS[1])
    written(tmp_path, ROWS[0], phase="second")
    batch, _ = read(run, ["@collect", "@second"], form="best")
    assert batch[IDS] == ["a", "b", "a#2"]


def test_skip_and_limit_part_a_holdout_from_what_is_learned(tmp_path: Path) -> None:
    run = written(tmp_path, *ROWS)
    assert read(run, form="best", limit=1)[0][IDS] == ["a"]
    assert read(run, form="best", skip=1)[0][IDS] == ["b", "c"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"id": "a", "prompt": "x", "completions": ["y"]}, "0 scores for 1 completions"),
        ({"id": "a", "prompt": "x", "completions": []}, "no completions"),
        ({"id": "a", "prompt": "x", "completions": ["y"], "scores": [1], "pairs": [[0, 1]]}, "names completion 1"),
        ({"id": "a", "completions": ["y"]}, "missing required field `prompt`"),
        ({"prompt": 3}, "no group as a phase writes it"),
    ],
)
def test_a_row_that_is_no_group_is_told_with_its_line(row: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read(written(tmp_path, ROWS[0], row), form="best")
    (problem,) = error.value.problems
    assert problem.where.endswith("groups.jsonl:2")
    assert told in problem.what


def test_noise_turns_a_share_of_the_pairs_round_and_the_same_ones_for_everybody(tmp_path: Path) -> None:
    rows = [
        {"id": f"{n}", "prompt": "p", "completions": ["good", "bad"], "scores": [1.0, 0.0], "pairs": [[0, 1]]}
        for n in range(2000)
    ]
    run = written(tmp_path, *rows)
    batch, _ = read(run, form="pairs", noise=0.25)
    turned = [at for at, better in enumerate(batch[CHOSEN].tolist()) if batch[COMPLETIONS][better] == "bad"]
    # A quarter of 2,000, within four standard errors.
    assert abs(len(turned) - 500) < 78
    assert all(a != b for a, b in zip(batch[CHOSEN].tolist(), batch[REJECTED].tolist(), strict=True))
    later, _ = read(run, form="pairs", noise=0.25, skip=1000)
    said = [batch[COMPLETIONS][better] for better in batch[CHOSEN].tolist()]
    assert [later[COMPLETIONS][better] for better in later[CHOSEN].tolist()] == said[1000:]
    clean, _ = read(run, form="pairs")
    assert {clean[COMPLETIONS][better] for better in clean[CHOSEN].tolist()} == {"good"}


def test_nothing_left_in_a_form_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no group is left of 1 in the form rankings"):
        read(written(tmp_path, ROWS[2]), form="rankings")


def test_all_completions_may_be_demonstrations_whether_they_were_scored_or_not(tmp_path: Path) -> None:
    plain = {"id": "d", "prompt": "4+4", "completions": ["8", "eight"]}
    batch, skipped = read(written(tmp_path, plain, ROWS[2]), form="all")
    assert (batch[COMPLETIONS], batch[GROUP].tolist(), skipped) == (["8", "eight", "7", "8"], [0, 0, 1, 1], 0)
    assert not {CHOSEN, LABEL, RANK} & set(batch)


def test_pairs_keep_how_sure_a_judge_was_of_each(tmp_path: Path) -> None:
    batch, skipped = read(written(tmp_path, {**ROWS[0], "soft": [0.9, 0.5]}, ROWS[2]), form="pairs", soft=True)
    assert batch[SOFT].tolist() == pytest.approx([0.9, 0.5])
    assert (batch[CHOSEN].tolist(), batch[REJECTED].tolist(), skipped) == ([0, 2], [1, 1], 1)


@pytest.mark.parametrize(
    ("soft", "told"), [([0.9], "1 values of `soft` for 2 pairs"), ([0.9, 1.5], "that is no probability")]
)
def test_certainty_that_cannot_be_is_refused_with_its_line(tmp_path: Path, soft: list[float], told: str) -> None:
    with pytest.raises(UserError, match=rf"groups.jsonl:1 .*{told}"):
        read(written(tmp_path, {**ROWS[0], "soft": soft}), form="pairs", soft=True)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"form": "labels"}, "form"),
        ({"form": "pairs", "threshold": 1.0}, "threshold"),
        ({"form": "best", "margins": True}, "margins"),
        ({"form": "best", "soft": True}, "soft"),
        ({"form": "all", "threshold": 1.0}, "threshold"),
        ({"form": "best", "mismatched": True}, "mismatched"),
        ({"form": "best", "limit": 0}, "limit"),
        ({"form": "rankings", "noise": 0.25}, "noise"),
        ({"form": "pairs", "margins": True, "noise": 0.25}, "noise"),
    ],
)
def test_options_of_another_form_are_refused(options: dict[str, Any], option: str) -> None:
    assert [fault.option for fault in Collected(path="@collect", **options).problems()] == [option]
