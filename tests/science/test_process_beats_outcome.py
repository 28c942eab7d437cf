"""Choosing by a process reward model beats choosing by an outcome reward model, and both beat the majority.

recipes/prm-chains.toml from end to end: the labels of the steps come from rollouts alone. A few minutes on a CPU core,
so it belongs to `make science`.
"""

from __future__ import annotations

from pathlib import Path

import anyio
from tests.science.process_chains import tell

from truing.conduct import conduct, versions
from truing.journal import Journal
from truing.plugins import discover
from truing.recipe import load
from truing.run import Stop

RECIPE = Path(__file__).parents[2] / "recipes" / "prm-chains.toml"


def test_the_best_of_64_by_process_is_no_worse_than_by_outcome_and_both_beat_the_majority(tmp_path: Path) -> None:
    plugins = discover()
    recipe = load(RECIPE, plugins)
    journal = Journal.create(tmp_path, recipe, versions(plugins))
    assert anyio.run(conduct, recipe, journal, plugins, Stop()) == "finished"
    labels, found = tell(journal.folder)
    assert labels.hard[labels.k] > 0.9
    assert found.apart("PRM", "ORM").high >= 0
    assert found.apart("PRM", "majority").low > 0
    assert found.apart("ORM", "majority").value > 0
    majority = found.right["majority"].mean(0)
    assert majority[-1] > majority[0]
