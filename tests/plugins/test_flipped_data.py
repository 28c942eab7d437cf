"""Files of rows with a byte that is another: what can be noticed of them, and by whom."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

from truing.bus import Bus
from truing.errors import UserError
from truing.run import Run
from truing_data.plugin import Jsonl, Parquet

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = [{"prompt": f"question {at}", "chosen": f"good {at * 7}", "rejected": f"bad {at * at}"} for at in range(100)]
COLUMNS = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
FLIPS = 60


def written(folder: Path, checked: bool) -> Path:
    path = folder / "rows.parquet"
    parquet.write_table(arrow.Table.from_pylist(ROWS), path, write_page_checksum=checked, compression="none")
    return path


def read(path: Path, kind: Any = Parquet, **options: Any) -> str:
    """The digest of what is learned from, or that the file is refused."""
    spec = kind(path=str(path), **COLUMNS, **options)
    try:
        return anyio.run(spec.build(Run("it", path.parent, 0, Bus())).open).digest
    except UserError:
        return "refused"


def flipped(path: Path, **options: Any) -> Counter[str]:
    """How often a flipped byte was of no matter, refused, or read otherwise."""
    whole, good, chance = path.read_bytes(), read(path), random.Random(0)
    found: Counter[str] = Counter()
    for _ in range(FLIPS):
        spoiled = bytearray(whole)
        spoiled[chance.randrange(len(whole))] ^= chance.randrange(1, 256)
        path.write_bytes(spoiled)
        told = read(path, **options)
        found["refused" if told == "refused" else "alike" if told == good else "otherwise"] += 1
    return found


def test_checksums_of_pages_are_looked_at_where_a_file_has_them(tmp_path: Path) -> None:
    without, checked = flipped(written(tmp_path, False)), flipped(written(tmp_path, True))
    assert without["otherwise"] >= FLIPS / 10, "nobody can know of a file that has none"
    assert checked["otherwise"] <= 1, "names and types of columns have no checksum"
    assert checked["refused"] > without["refused"]


def test_a_file_that_the_recipe_has_the_sum_of_is_that_file_or_refused(tmp_path: Path) -> None:
    path = written(tmp_path, False)
    sums = [hashlib.sha256(path.read_bytes()).hexdigest(), 64 * "0"]
    assert read(path, sha256=sums) == read(path)
    assert flipped(path, sha256=sums) == {"refused": FLIPS}
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    with pytest.raises(UserError, match=r"this file is none of those in sha256: its sum is [0-9a-f]{64}"):
        anyio.run(Jsonl(path=str(lines), sha256=sums, **COLUMNS).build(Run("it", tmp_path, 0, Bus())).open)
