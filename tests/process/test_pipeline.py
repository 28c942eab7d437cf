"""From solutions over labels to a model: what one phase writes of steps, another learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import torch
from tests.process.conftest import solutions, some

from truing.collect import rows_of
from truing.errors import UserError
from truing.fields import GROUP, IDS, STEP_INDEX, STEP_LABELS, STEP_SEQ, STEPS, Batch
from truing.run import Run
from truing_data.menu_collected import Collected
from truing_data.menu_steps import StepFile
from truing_reward.menu_rollouts import StepRollouts
from truing_tensor.groups import batch_of, join, take


def written(folder: Path, rows: list[Any]) -> Path:
    path = folder / "groups.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return path


def read(path: Path, run: Run, **options: Any) -> Batch:
    async def whole() -> Batch:
        source = Collected(path=str(path), form="steps", shuffle=False, **options).build(run)
        info = await source.open()
        return await anext(source.batches(info.groups, 0))

    return anyio.run(whole)


def test_steps_that_a_phase_wrote_down_are_read_as_they_were(tmp_path: Path, run: Run) -> None:
    batch = batch_of(some())
    rows = rows_of(batch)
    assert rows[2]["steps"] == [["a", "b", "c", "d"], ["e"], ["f", "g"]]
    assert rows[2]["step_index"] == [[0, 1, 2], [], [0, 1]]
    assert rows[2]["step_labels"] == [[1.0, 1.0, 0.25], [], [0.0, 1.0]]
    again = read(written(tmp_path, rows), run)
    for key in (IDS, STEPS):
        assert again[key] == batch[key]
    for key in (GROUP, STEP_SEQ, STEP_INDEX, STEP_LABELS):
        assert torch.equal(again[key], batch[key])


def test_steps_are_cut_and_joined_with_their_groups() -> None:
    batch = batch_of(some())
    parts = [take(batch, [0]), take(batch, [1, 2])]
    whole = join(parts)
    assert whole[STEPS] == batch[STEPS]
    for key in (STEP_SEQ, STEP_INDEX, STEP_LABELS):
        assert torch.equal(whole[key], batch[key])
    assert parts[1][STEP_SEQ].tolist() == [0, 0, 1, 1, 1, 3, 3]


def test_a_group_of_which_no_step_is_judged_is_written_down_and_not_read(tmp_path: Path, run: Run) -> None:
    nothing = solutions("nothing", "q", ["a"], ["b"], labels=[[None], [None]])
    rows = rows_of(batch_of([nothing, *some()[1:]]))
    assert rows[0]["step_labels"] == [[], []]
    assert read(written(tmp_path, rows), run)[IDS] == ["two", "three"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": []}, '"steps" has 0 lists for 2 completions'),
        ({"step_labels": [[1], [0]]}, "completion 1 has 1 labels of steps for 2 places"),
        ({"step_index": [[0, 2], [0]]}, "a label of a step it does not have; there are 2"),
        ({"step_labels": [[1, 2], [0]]}, "a label that is no probability"),
    ],
)
def test_a_row_whose_steps_do_not_fit_together_is_named(
    change: dict[str, Any], message: str, tmp_path: Path, run: Run
) -> None:
    rows = rows_of(batch_of(some()))
    with pytest.raises(UserError, match=message):
        read(written(tmp_path, [rows[0] | change]), run)


def test_labels_that_are_all_alike_are_refused_with_what_may_be_the_matter(tmp_path: Path, run: Run) -> None:
    rows = rows_of(batch_of(some()))
    with pytest.raises(UserError, match="every step that is judged has the label 0"):
        read(written(tmp_path, [rows[0] | {"step_labels": [[0, 0], [0]]}]), run)


def test_every_source_of_judged_steps_offers_them() -> None:
    for spec in (StepFile, Collected, StepRollouts):
        assert {STEPS, STEP_SEQ, STEP_INDEX, STEP_LABELS} <= spec.offers.keys()
