"""Secrets stay where they were put: canaries are planted, a run goes wrong in several ways, and it is searched."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import pytest
import typer

pytest.importorskip("mlflow")
pytest.importorskip("httpx2")

from tests.generate.fake import Asked, FakeServer, Reply
from tests.kernel.scenes import Writer

from truing.cli.running import go
from truing.errors import UserError
from truing.fields import Batch, Fields
from truing.journal import Journal
from truing.run import Run
from truing.stage import GeneratorSpec
from truing.testing import TOYS, ToyModelSpec, recipe, with_specs
from truing_remote import addresses
from truing_remote.http import Server

CANARIES = {
    "TRUING_TEST_KEY": "kanarie-1-of-the-server",
    "MLFLOW_TRACKING_PASSWORD": "kanarie-2-of-mlflow",
    "HF_TOKEN": "hf_kanarie3ofthehub",
    "AWS_SECRET_ACCESS_KEY": "kanarie-4-of-a-cloud",
}
TEXT = """
name = "secret"

[source]
use = "toy"

[model]
use = "prompted"

[optimizer]
use = "toy"

[loss]
use = "toy"

[generator]
use = "asking"
url = "{url}"

[loop]
batch = 2
steps = 6

[loop.failures]
in_a_row = 3

[[observer]]
use = "mlflow"
tracking_uri = "{store}"
system_metrics = false
"""


class PromptedSpec(ToyModelSpec, frozen=True, kw_only=True):
    """A toy model that is handed prompts alone."""

    name: ClassVar[str] = "prompted"
    target: ClassVar[str] = "tests.kernel.scenes:Prompted"


class AskingSpec(GeneratorSpec, frozen=True, kw_only=True):
    """Asks a server, which holds the key against it."""

    name: ClassVar[str] = "asking"
    target: ClassVar[str] = "tests.security.test_secrets:Asking"
    url: str

    def provides(self) -> Fields:
        from truing_generate.plugin import COMPLETED

        return COMPLETED


class Asking(Writer):
    def __init__(self, spec: AskingSpec, run: Run) -> None:
        super().__init__()
        self._server = Server(spec.url, "TRUING_TEST_KEY", where="[generator]", retries=1, timeout=5.0)
        self._calls = 0

    async def generate(self, batch: Batch) -> Batch:
        """It goes wrong in one way after another, and the last one is nobody's plan."""
        self._calls += 1
        if self._calls < 3:
            async with self._server.connected() as ask:
                await ask("GET", f"/v1/{self._calls}")
        assert self._calls < 9, "nobody foresaw this"
        return self.written(batch, self.synced[-1])


def spiteful(asked: Asked) -> Reply:
    """A server that says again what it was told, with the key in it."""
    return Reply({"error": {"message": f"bad headers: {asked.headers}"}}, status=500 if asked.number % 2 else 418)


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> dict[str, bytes]:
    """All bytes that a run which failed has left, by where they are."""
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    specs = (*TOYS, PromptedSpec, AskingSpec)
    with FakeServer() as server:
        server.answer = spiteful
        made = recipe(TEXT.format(url=server.url, store=f"sqlite:///{tmp_path}/mlflow.db"), *specs)
        journal = Journal.create(tmp_path / "runs", made, {})
        with pytest.raises((UserError, typer.Exit, Exception)):
            go(made, journal, with_specs(*specs), "auto", resumed=False, traceback=True)
        told = [asked.headers.get("authorization", asked.headers.get("Authorization", "")) for asked in server.asked]
    assert f"Bearer {CANARIES['TRUING_TEST_KEY']}" in told, "the key did go to the server"
    out, err = capfd.readouterr()
    found = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    return {**found, "stdout": out.encode(), "stderr": err.encode()}


def test_no_byte_that_a_run_leaves_holds_a_secret(left: dict[str, bytes]) -> None:
    assert any(name.endswith("mlflow.db") for name in left)
    assert b"(hidden)" in next(content for name, content in left.items() if name.endswith("events.jsonl"))
    for name, content in left.items():
        for canary in CANARIES.values():
            for form in (canary, quote(canary), base64.b64encode(canary.encode()).decode().rstrip("=")[:-1]):
                assert form.encode() not in content, f"{name} holds {canary}"


@pytest.mark.parametrize("name", ["hf_kanarie3ofthehub", "sk-kanarie", "Bearer kanarie", "kanarie_key"])
def test_a_key_that_stands_where_its_variable_should_is_refused_and_not_said_again(name: str) -> None:
    faults = list(addresses.problems("http://127.0.0.1:8000", name))
    assert [fault.option for fault in faults] == ["key_env"]
    assert "kanarie" not in str(faults)


@pytest.mark.parametrize(
    "observer", ['tracking_uri = "postgresql://me:kanarie@db/x"', 'tracking_uri = "http://me:kanarie@127.0.0.1:1"']
)
def test_a_password_in_a_recipe_is_refused_before_anything_is_kept(
    observer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = TEXT.partition("[generator]")[0].replace("prompted", "toy")
    with pytest.raises(UserError, match="a password in a recipe"):
        recipe(f'{text}[[observer]]\nuse = "mlflow"\n{observer}', *TOYS)
    assert list(tmp_path.iterdir()) == []


def test_the_address_of_a_store_is_shown_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from truing.cli.running import _tracking

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:kanarie@db/x")
    made = recipe(TEXT.partition("[generator]")[0].replace("prompted", "toy") + '[[observer]]\nuse = "mlflow"', *TOYS)
    assert _tracking(made) == ["mlflow ui --backend-store-uri postgresql://db/x"]
