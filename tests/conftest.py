"""What holds for every test: nothing is kept beyond it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What truing keeps between runs goes away with the test. Fixtures of the session use the real cache."""
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))
