"""What a release says it stands on, and the audit of that: with a stand-in for pip-audit, for nobody is asked here."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PIP_AUDIT = """
import json, pathlib, sys
given = dict(zip(sys.argv[1::1], sys.argv[2::1]))
names = [line.split("==") for line in pathlib.Path(given["--requirement"]).read_text().splitlines()]
mode = {mode!r}
if mode == "gone":
    sys.exit("ConnectionError: Could not connect to PyPI's vulnerability feed")
known = [{{"id": "CVE-1", "fix_versions": ["2.0"]}}]
told = [
    {{"name": name, "skip_reason": "not found"}} if mode == "unknown" else
    {{"name": name, "version": version, "vulns": known if mode == "bad" and name == "b" else []}}
    for name, version in names
]
pathlib.Path(given["--output"]).write_text(json.dumps({{"dependencies": told}}))
"""


def script(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("mode", "status", "said"),
    [
        ("good", 0, "2 packages audited, 0 unknown, 0 with a known weakness"),
        ("bad", 1, "b 1.1: CVE-1, mended in 2.0"),
        ("unknown", 0, "audit skipped, nothing was audited: not found"),
        ("gone", 0, "audit skipped, nothing was audited: ConnectionError"),
    ],
)
def test_the_audit_fails_for_what_is_known_and_says_when_it_asked_nobody(
    mode: str, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = (sys.executable, "-S", "-c", PIP_AUDIT.format(mode=mode))
    assert script("audit").audited(["a==1.0", "b==1.1"], tool) == status
    assert said in capsys.readouterr().out


class Advisories(BaseHTTPRequestHandler):
    """Knows of one package, as osv.dev answers."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.20.0"}]}]
        known = {"id": "PYSEC-1", "affected": [{"package": asked["package"], "ranges": ranges}]}
        bad = (asked["package"]["name"], asked["version"]) == ("requests", "2.19.1")
        answer = json.dumps({"vulns": [known]} if bad else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(("version", "status"), [("2.19.1", 1), ("2.20.0", 0)])
def test_pip_audit_itself_is_understood(version: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pip_audit", reason="pip-audit is not installed: pip install -e '.[release]'")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Advisories)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    audit = script("audit")
    tool = (*audit.TOOL, "-s", "osv", "--osv-url", f"http://127.0.0.1:{server.server_port}")
    assert audit.audited(["idna==3.10", f"requests=={version}"], tool) == status
    server.shutdown()
    server.server_close()
    said = capsys.readouterr().out
    assert f"2 packages audited, 0 unknown, {status} with a known weakness" in said
    assert ("requests 2.19.1: PYSEC-1, mended in 2.20.0" in said) is bool(status)


def test_without_pip_audit_an_audit_is_no_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    audit = script("audit")
    monkeypatch.setattr(audit, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip-audit is not installed"):
        audit.main()


def test_a_release_stands_on_what_is_installed_for_it_and_not_on_what_tests_it() -> None:
    found = script("sbom").closure()
    assert {"truing", "anyio", "msgspec", "pluggy", "typer"} <= found.keys()
    assert not {"pytest", "ruff", "pyright", "sphinx", "hypothesis"} & found.keys()
    assert "idna" in found["anyio"][1]
    pins = script("sbom").pins(found).splitlines()
    assert all(name.partition("==")[2] and "+" not in name for name in pins)
    assert len(pins) == len(found) - 1


def test_the_bill_of_materials_is_cyclonedx_and_the_same_each_time() -> None:
    pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is not installed: pip install -e '.[release]'")
    sbom = script("sbom")
    text = sbom.bill(sbom.closure())
    assert text == sbom.bill(sbom.closure())
    told = json.loads(text)
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    assert told["metadata"]["component"]["name"] == "truing"
    names = {part["name"]: part for part in told["components"]}
    assert names["msgspec"]["purl"].startswith("pkg:pypi/msgspec@")
    assert sum("licenses" in part for part in names.values()) > 0.9 * len(names)
    needs = {each["ref"].partition("==")[0]: each.get("dependsOn", []) for each in told["dependencies"]}
    assert any(need.startswith("anyio==") for need in needs["truing"])
