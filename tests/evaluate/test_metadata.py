"""Categories travel: from the columns of a file through a source and a phase to a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from truing.bus import Bus
from truing.collect import rows_of
from truing.errors import UserError
from truing.fields import METADATA, SCORES, Batch
from truing.run import Run
from truing_data.plugin import Jsonl

from .conftest import Call, Write

ROWS = [
    {"prompt": "a", "chosen": "yes", "rejected": "no", "kind": "one", "level": 3},
    {"prompt": "b", "chosen": "yes", "rejected": "no", "kind": "two", "level": None},
]


def batches(spec: Jsonl) -> list[Batch]:
    source: Any = spec.build(Run("test", Path(), 0, Bus()))

    async def read() -> list[Batch]:
        await source.open()
        return [batch async for batch in source.batches(4, 0)]

    return anyio.run(read)


def source(path: Path, **options: Any) -> Jsonl:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return Jsonl(path=str(path), shuffle=False, **{"chosen": "chosen", "rejected": "rejected", **options})


def test_columns_named_as_metadata_travel_with_their_prompt(tmp_path: Path) -> None:
    spec = source(tmp_path / "pairs.jsonl", metadata=["kind", "level"])
    (batch,) = batches(spec)
    assert METADATA in spec.provides()
    assert batch[METADATA] == [{"kind": "one", "level": 3}, {"kind": "two", "level": None}]


@pytest.mark.parametrize("options", [{"pairs_to_labels": True}, {"pairs_to_labels": True, "mismatched": True}])
def test_they_stay_when_pairs_become_labels(options: dict[str, Any], tmp_path: Path) -> None:
    (batch,) = batches(source(tmp_path / "pairs.jsonl", metadata=["kind"], **options))
    assert [row["kind"] for row in batch[METADATA]] == ["one", "two"]


def test_without_them_nothing_travels(tmp_path: Path) -> None:
    spec = source(tmp_path / "pairs.jsonl")
    assert METADATA not in spec.provides()
    assert METADATA not in batches(spec)[0]


def test_a_column_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no column "kinds"') as wrong:
        batches(source(tmp_path / "pairs.jsonl", metadata=["kinds"]))
    assert 'did you mean "kind"?' in str(wrong.value)


def test_they_are_the_categories_of_a_report(tmp_path: Path, write: Write, truing: Call) -> None:
    (batch,) = batches(source(tmp_path / "pairs.jsonl", metadata=["kind"]))
    scored: Any = batch.put(SCORES, [1.0, 0.0, 0.0, 1.0])  # pyright: ignore[reportArgumentType]
    said = truing("evaluate", write(rows_of(scored)), "--by", "kind", "--json").json
    assert {it["name"]: it["accuracy"]["value"] for it in said["pairs"]["by"]["kind"]} == {"one": 1.0, "two": 0.0}
