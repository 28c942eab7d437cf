"""A small model to score with."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.model.conftest import write_family


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small Llama."""
    folder = tmp_path_factory.mktemp("llama")
    write_family("llama", folder)
    return folder
