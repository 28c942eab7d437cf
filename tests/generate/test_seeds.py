"""Where the seeds of samples come from: the place in the run, never the weights, a worker or the time."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from truing.bus import Bus
from truing.fields import IDS, SEEDS, Batch
from truing.run import Run
from truing_generate.completions import Seeds


def seeds(folder: Path) -> Any:
    return partial(Seeds(Run("test", folder, 0, Bus())).draw, samples=2)


def batch(*places: int, ids: tuple[str, ...] = ("a", "b")) -> Batch:
    return Batch({IDS: list(ids), SEEDS: list(places)})


def test_the_loops_place_decides_and_not_the_version_of_the_weights_nor_what_was_asked_before(tmp_path: Path) -> None:
    one = seeds(tmp_path)
    first = one(batch(1, 2), version=0)
    assert one(batch(1, 2), version=5) == first
    assert seeds(tmp_path)(batch(1, 2), version=7) == first
    assert one(batch(2, ids=("b",)), version=0) == first[1:]


def test_every_sample_of_every_group_at_every_place_has_its_own(tmp_path: Path) -> None:
    one = seeds(tmp_path)
    drawn = [
        *one(batch(1, 2), 0),
        *one(batch(3, 4), 0),
        *one(batch(1, 1, 1, ids=("c", "c", "c")), 0),
    ]
    flat = [seed for some in drawn for seed in some]
    assert len(set(flat)) == len(flat) == 14


def test_without_a_place_a_prompt_that_is_asked_again_gets_others(tmp_path: Path) -> None:
    one, asked = seeds(tmp_path), Batch({IDS: ["a"]})
    first, second = one(asked, 0), one(asked, 0)
    assert first != second
    assert one(asked, 1) not in (first, second)
    assert one(batch(1, ids=("a",)), 1) != first
    assert one(asked, 0) == first
