"""The kernel, the menus and the promises of `promises.py`, read by pyright in strict mode."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYRIGHT = shutil.which("pyright", path=str(Path(sys.executable).parent)) or shutil.which("pyright")


@pytest.fixture(scope="module")
def report() -> Any:
    """What pyright says of everything that `[tool.pyright]` includes."""
    if PYRIGHT is None:
        pytest.skip("pyright is not installed: pip install 'truing[lint]'")
    command = [PYRIGHT, "--project", str(ROOT), "--pythonpath", sys.executable, "--outputjson"]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not asked.stdout.lstrip().startswith("{"):
        pytest.skip(f"pyright does not start here: {(asked.stderr or asked.stdout).strip()[-200:]}")
    return json.loads(asked.stdout)


@pytest.mark.slow
def test_the_kernel_and_every_menu_are_strictly_typed(report: Any) -> None:
    found = [
        f"{Path(said['file']).relative_to(ROOT)}:{said['range']['start']['line'] + 1} {said['message']}"
        for said in report["generalDiagnostics"]
        if said["severity"] in ("error", "warning")
    ]
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_pyright_reads_the_kernel_the_menus_and_the_promises(report: Any) -> None:
    kernel = [path for path in ROOT.glob("core/truing/**/*.py") if "template" not in path.parts]
    files = {*kernel, *ROOT.glob("plugins/*/plugin.py"), ROOT / "tests/typing/promises.py"}
    assert report["summary"]["filesAnalyzed"] >= len(files)
