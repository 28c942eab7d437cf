"""Discovery: a plugin that breaks is a line in a list, never the end of the command."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from truing import plugins as discovery
from truing.errors import UserError
from truing.plugins import Command, discover, hookimpl
from truing.stage import LossSpec

Install = Callable[..., None]


def loss(word: str) -> type[LossSpec]:
    class Made(LossSpec, frozen=True, kw_only=True):
        name: ClassVar[str] = word
        target: ClassVar[str] = "nowhere:nothing"

    return Made


def module(*losses: str, recipes: list[Path] | None = None, commands: tuple[str, ...] = ()) -> ModuleType:
    made = ModuleType("made")
    specs = [loss(word) for word in losses]

    @hookimpl
    def truing_specs() -> list[Any]:
        return specs

    @hookimpl
    def truing_recipes() -> list[Path]:
        return recipes or []

    @hookimpl
    def truing_commands() -> list[Command]:
        return [Command(name, "nowhere:nothing") for name in commands]

    made.truing_specs, made.truing_recipes = truing_specs, truing_recipes  # type: ignore[attr-defined]
    made.truing_commands = truing_commands  # type: ignore[attr-defined]
    return made


class Entry:
    """As much of an entry point as discovery looks at."""

    def __init__(self, name: str, brings: ModuleType | Exception, package: str) -> None:
        self.name, self.module = name, f"{name}_module"
        self._brings = brings
        self.dist = type("Dist", (), {"name": package, "version": "1.2"})()

    def load(self) -> ModuleType:
        if isinstance(self._brings, Exception):
            raise self._brings
        return self._brings


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make these, and only these, the installed plugins: name = what it brings."""
    monkeypatch.delenv("TRUING_BLOCK", raising=False)

    def only(package: str = "stranger", /, **brings: ModuleType | Exception) -> None:
        entries = [Entry(name, what, "truing" if name == "ours" else package) for name, what in brings.items()]
        monkeypatch.setattr(discovery, "entry_points", lambda group: entries if group == "truing" else [])

    return only


def test_what_a_plugin_brings_is_on_the_shelf_under_its_name(install: Install, tmp_path: Path) -> None:
    install(ours=module("hinge", "cross", recipes=[tmp_path]))
    found = discover()
    assert list(found.registry.shelf("loss")) == ["cross", "hinge"]
    assert found.registry.plugin_of(found.registry.get(LossSpec, "hinge")) == "ours"
    assert found.recipes == [tmp_path]
    (loaded,) = found.loaded
    assert (loaded.name, loaded.package, loaded.version, loaded.specs, loaded.error) == ("ours", "truing", "1.2", 2, "")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (ModuleNotFoundError("No module named 'cuda_thing'"), "ModuleNotFoundError: No module named 'cuda_thing'"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_told_and_the_others_load(
    install: Install, broken: Exception, said: str
) -> None:
    install(bad=broken, good=module("hinge"))
    found = discover()
    assert [(plugin.name, plugin.error) for plugin in found.loaded] == [("bad", said), ("good", "")]
    assert list(found.registry.shelf("loss")) == ["hinge"]
    assert found.hint == "plugins that did not load: bad (see `truing plugins`)"


def test_a_hook_that_does_not_exist_is_the_plugins_mistake(install: Install) -> None:
    wrong = module("hinge")

    @hookimpl
    def truing_spec() -> list[Any]:
        return []

    wrong.truing_spec = truing_spec  # type: ignore[attr-defined]
    install(wrong=wrong)
    found = discover()
    assert "unknown hook 'truing_spec'" in found.loaded[0].error
    assert not found.registry.shelf("loss")


def test_a_plugin_that_brings_no_specs_but_nonsense_is_told(install: Install) -> None:
    wrong = ModuleType("wrong")
    wrong.truing_specs = hookimpl(lambda: ["hinge"])  # type: ignore[attr-defined]
    install(wrong=wrong)
    assert discover().loaded[0].error.startswith("AttributeError")


def test_on_a_clash_the_stranger_is_refused_and_none_of_it_is_used(install: Install) -> None:
    install(aaa=module("extra", "sft"), ours=module("sft"))
    found = discover()
    assert [plugin.name for plugin in found.loaded] == ["ours", "aaa"]
    assert found.loaded[1].error == 'loss "sft" comes from two plugins: ours and aaa'
    assert list(found.registry.shelf("loss")) == ["sft"]


def test_a_command_that_another_plugin_has_is_refused_with_all_that_comes_with_it(install: Install) -> None:
    install(ours=module(commands=("data report",)), rival=module("hinge", commands=("data report", "select")))
    found = discover()
    assert list(found.commands) == ["data report"]
    assert found.loaded[1].error == "another plugin has the command `truing data report` already"
    assert not found.registry.shelf("loss")


def test_a_blocked_plugin_is_not_even_imported(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(bad=RuntimeError("must not be loaded"), worse=RuntimeError("neither"), good=module("hinge"))
    monkeypatch.setenv("TRUING_BLOCK", "worse, ")
    found = discover(["bad"])
    assert [plugin.name for plugin in found.loaded] == ["good"]


def test_blocking_a_plugin_that_is_not_there_is_told(install: Install) -> None:
    install(good=module("hinge"), fine=module())
    with pytest.raises(UserError) as told:
        discover(["goood"])
    (problem,) = told.value.problems
    assert problem.what == "no plugin called goood"
    assert problem.mend == "found here: fine, good"


def test_an_entry_point_without_a_distribution_is_known_by_its_module(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "entry_points", lambda group: [EntryPoint("odd", "truing_policy.plugin", "truing")])
    (loaded,) = discover().loaded
    assert (loaded.package, loaded.version) == ("truing_policy.plugin", "")
