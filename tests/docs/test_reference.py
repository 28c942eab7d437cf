"""The reference has everything the code has, and it builds without a warning."""

from __future__ import annotations

import ast
import html
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from truing import fields as vocabulary
from truing.cli.app import app
from truing.events import Event
from truing.fields import Field
from truing.plugins import Hooks, discover
from truing.registry import options
from truing.stage import KINDS

from .conftest import DOCS, PAGES, ROOT

pytestmark = pytest.mark.slow

EVENTS = [kind for kind in Event.__subclasses__() if kind.__module__ == "truing.events"]
FIELDS = [(name, field) for name, field in vars(vocabulary).items() if isinstance(field, Field)]
HOOKS = [hook for name, hook in vars(Hooks).items() if name.startswith("truing_")]
OWN = [
    spec
    for kind in KINDS
    for spec in discover().registry.shelf(kind).values()
    if spec.__module__.partition(".")[0] in {folder.name for folder in (ROOT / "plugins").iterdir()}
]


def page(built: Path, name: str) -> str:
    """The words of a built page."""
    text = (built / f"{name}.html").read_text(encoding="utf-8")
    return html.unescape(re.sub(r"<[^>]+>", "", text))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The extension that tells what the code knows."""
    monkeypatch.setattr(sys, "path", [str(DOCS / "_ext"), *sys.path])
    return pytest.importorskip("told_by_the_code")


def test_the_documentation_builds_without_a_warning(built: Path) -> None:
    assert (built / "index.html").exists()


def test_every_page_is_built(built: Path) -> None:
    for path in PAGES:
        if path.is_relative_to(DOCS):
            assert (built / path.relative_to(DOCS).with_suffix(".html")).exists()


@pytest.mark.parametrize("spec", OWN, ids=lambda spec: f"{spec.kind}-{spec.name}")
def test_every_component_is_there_with_every_option(built: Path, spec: Any) -> None:
    text = page(built, f"reference/{spec.kind}")
    assert f'use = "{spec.name}"' in text
    for option in options(spec):
        assert f"\n{option.name}\n" in text, f"{option.name} of {spec.name}"
        assert re.sub(r"\s+", " ", option.meaning.replace("`", ""))[:40] in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_components_and_its_contract_told(kind: str) -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    assert f"<!-- told: components {kind} -->" in pages
    assert f"<!-- told: contract {kind} -->" in pages


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_event_is_there_with_its_members(built: Path, kind: type[Event]) -> None:
    text = page(built, "reference/events")
    assert kind.__name__ in text
    for member in kind.__struct_fields__:
        assert member in text


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=lambda given: str(given))
def test_every_field_is_there(built: Path, name: str, field: Field[Any]) -> None:
    assert re.search(rf"\n{name}\n\s*{field.name}\n\s*{field.dims}\n", page(built, "reference/fields"))


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_every_hook_is_there_with_its_signature(built: Path, hook: Any) -> None:
    text = page(built, "reference/hooks")
    signature = inspect.signature(hook)
    parameters = ", ".join(str(parameter) for name, parameter in signature.parameters.items() if name != "self")
    assert f"def {hook.__name__}({parameters}) -> {signature.return_annotation}: ..." in text
    assert inspect.getdoc(hook).replace("`", "") in text  # type: ignore[union-attr]


@pytest.mark.parametrize("command", [*(str(it.name) for it in app.registered_commands), *discover().commands])
def test_every_command_is_there(built: Path, command: str) -> None:
    assert f"Usage: truing {command}" in page(built, "reference/command-line")


def test_the_floors_on_the_page_are_those_of_the_house() -> None:
    house = ast.parse((ROOT / "tests" / "house" / "test_house.py").read_text(encoding="utf-8"))
    floors = next(
        ast.literal_eval(statement.value)
        for statement in house.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "FLOORS"
    )
    text = (DOCS / "explain" / "architecture.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| (\d+) \| ([^|]+) \|", text, re.M)
    assert [tuple(re.findall(r"`(\w+)`", modules)) for _, modules in reversed(shown)] == list(floors)
    assert [int(number) for number, _ in reversed(shown)] == list(range(1, len(floors) + 1))


def test_nothing_is_fetched_when_a_page_is_read(built: Path) -> None:
    for path in built.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', path.read_text(encoding="utf-8")
        )
        assert not fetched, f"{path.name} fetches {fetched}"


def test_a_telling_that_nobody_knows_is_an_error(told: Any) -> None:
    with pytest.raises(KeyError, match="weather"):
        told.expand("<!-- told: weather -->", lambda name: "")


def test_pictures_are_shown_only_if_they_are_there(told: Any, tmp_path: Path) -> None:
    import tellings

    assert tellings.pictures(tmp_path, "mlflow", "../_static") == ""
    (tmp_path / "mlflow-two-runs.png").touch()
    assert tellings.pictures(tmp_path, "mlflow", "../_static") == "![mlflow: two runs](../_static/mlflow-two-runs.png)"
