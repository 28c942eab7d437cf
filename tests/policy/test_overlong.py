"""What a completion loses by its length."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from truing.bus import Bus
from truing.fields import SCORES
from truing.run import Run
from truing.testing import check_spec
from truing_policy.plugin import Overlong

from .conftest import Rollouts


def test_length_costs_nothing_then_more_and_more_and_then_all() -> None:
    check_spec(Overlong, longest=10, buffer=4)
    batch = Rollouts([[{}] * length for length in (1, 6, 7, 9, 10, 12)]).batch()
    scorer = Overlong(longest=10, buffer=4).build(Run("test", Path(), 0, Bus()))
    found = anyio.run(scorer.score, batch)[SCORES]
    assert found.tolist() == pytest.approx([0, 0, -0.25, -0.75, -1, -1])


def test_a_buffer_longer_than_a_completion_is_told() -> None:
    assert [fault.option for fault in Overlong(longest=3, buffer=4).problems()] == ["buffer"]
