"""Asks pip-audit whether anything that a release stands on is known to be vulnerable.

    python .ci/audit.py PINS        PINS: name==version, one a line, as .ci/sbom.py writes it

Exit status 1 says that something is. One package is asked about first: where nobody answers that, nothing is audited,
and the output says why.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_SECONDS = 20
TOOL = (sys.executable, "-m", "pip_audit")


def main() -> None:
    """Audit, and leave with the verdict. Without the tool that is no skip."""
    if find_spec("pip_audit") is None:
        sys.exit("pip-audit is not installed: pip install -e '.[release]'")
    sys.exit(audited(Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()))


def audited(pins: Sequence[str], tool: Sequence[str] = TOOL) -> int:
    """0 where nothing is known, or nobody can be asked; 1 where something is."""
    _, why = _asked(pins[:1], tool)
    if why:
        print(f"audit skipped, nothing was audited: {why}")
        return 0
    packages, why = _asked(pins, tool)
    bad = [package for package in packages if package.get("vulns")]
    for package in bad:
        for known in package["vulns"]:
            mend = ", ".join(known["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {known['id']}, mended in {mend}")
    skipped = sum("skip_reason" in package for package in packages)
    print(why or f"{len(packages) - skipped} packages audited, {skipped} unknown, {len(bad)} with a known weakness")
    return 1 if bad or why else 0


def _asked(pins: Sequence[str], tool: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """What is known of these packages, or why nothing is."""
    with tempfile.TemporaryDirectory() as place:
        asked, report = Path(place) / "pins.txt", Path(place) / "report.json"
        asked.write_text("\n".join(pins), encoding="utf-8")
        options = ["--requirement", str(asked), "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        options += ["--timeout", str(_SECONDS), "--format", "json", "--output", str(report)]
        done = subprocess.run([*tool, *options], capture_output=True, text=True, check=False)
        # Written once every package was asked about, and only then.
        packages = json.loads(report.read_text())["dependencies"] if report.exists() else []
    reasons = [package["skip_reason"] for package in packages if "skip_reason" in package]
    if packages and len(reasons) < len(packages):
        return packages, ""
    return [], reasons[0] if reasons else (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]


if __name__ == "__main__":
    main()
