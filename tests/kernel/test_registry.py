"""Shelves of specs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import pytest
from msgspec import Meta, field

from truing.errors import UserError
from truing.fields import CHOSEN, LOGPROBS
from truing.plugins import Plugins
from truing.registry import Option, Registry, doc, options
from truing.stage import AnySpec, LossSpec, ModelSpec, SourceSpec


class First(LossSpec, frozen=True, kw_only=True):
    """The first
    of its kind.
    """

    name: ClassVar[str] = "hinge"
    target: ClassVar[str] = "somewhere:first"


class Second(LossSpec, frozen=True, kw_only=True):
    name: ClassVar[str] = "hinge"
    target: ClassVar[str] = "elsewhere:second"


class Other(LossSpec, frozen=True, kw_only=True):
    name: ClassVar[str] = "other"
    target: ClassVar[str] = "elsewhere:other"


class SameNameOtherKind(SourceSpec, frozen=True, kw_only=True):
    name: ClassVar[str] = "hinge"
    target: ClassVar[str] = "elsewhere:third"


class Nameless(LossSpec, frozen=True, kw_only=True):
    target: ClassVar[str] = "elsewhere:fourth"


class Optioned(ModelSpec, frozen=True, kw_only=True):
    name: ClassVar[str] = "optioned"
    target: ClassVar[str] = "elsewhere:fifth"
    path: Annotated[str, Meta(description="where")]
    rate: Annotated[float, Meta(gt=0, le=1, description="how fast")] = 0.5
    mode: Annotated[Literal["a", "b"], Meta(description="which")] = "a"
    limit: Annotated[int | None, Meta(description="how many")] = None
    names: Annotated[list[str], Meta(min_length=1, description="whose")] = field(default_factory=lambda: ["x"])


def test_a_name_that_comes_twice_names_both_plugins_and_a_way_out() -> None:
    registry = Registry()
    registry.add(First, "ours")
    with pytest.raises(UserError) as told:
        registry.add(Second, "theirs")
    (problem,) = told.value.problems
    assert problem.what == 'loss "hinge" comes from two plugins: ours and theirs'
    assert problem.mend == "leave one out with --block theirs"
    assert registry.get(LossSpec, "hinge") is First


def test_a_plugin_that_is_refused_leaves_nothing_on_the_shelves() -> None:
    registry = Registry()
    registry.add(First, "ours")
    with pytest.raises(UserError):
        registry.add_all([Other, Second], "theirs")
    assert list(registry.shelf("loss").values()) == [First]
    registry.add_all([Other], "ours")
    assert registry.plugin_of(Other) == "ours"


def test_one_name_on_two_shelves_is_two_components() -> None:
    registry = Registry()
    registry.add_all([First, SameNameOtherKind], "ours")
    assert registry.get(LossSpec, "hinge") is First
    assert registry.get(SourceSpec, "hinge") is SameNameOtherKind


@pytest.mark.parametrize("spec", [Nameless, LossSpec])
def test_a_spec_without_a_name_is_refused(spec: type[AnySpec]) -> None:
    with pytest.raises(UserError, match="is no complete spec"):
        Registry().add(spec, "ours")


def test_an_unknown_name_is_told_with_the_closest_of_its_kind(plugins: Plugins) -> None:
    with pytest.raises(UserError) as told:
        plugins.registry.get(LossSpec, "pears", "r.toml:3")
    (problem,) = told.value.problems
    assert (problem.where, problem.what) == ("r.toml:3", 'no loss called "pears"')
    assert problem.mend == 'did you mean "pairs"?'


def test_an_unknown_name_close_to_none_is_told_with_all_of_its_kind(plugins: Plugins) -> None:
    with pytest.raises(UserError) as told:
        plugins.registry.get(LossSpec, "quux")
    assert told.value.problems[0].mend == "known here: pairs, single, toy"


def test_what_would_provide_a_field_is_said_with_the_option_that_does_it(plugins: Plugins) -> None:
    registry = plugins.registry
    assert list(registry.providers(CHOSEN)) == [
        '[source] use = "rows" with a `chosen` and a `rejected` column provides it'
    ]
    assert list(registry.providers(LOGPROBS)) == []


def test_options_are_told_as_a_person_writes_them() -> None:
    assert options(Optioned) == [
        Option("path", "str", None, "", "where"),
        Option("rate", "float", "0.5", "> 0, ≤ 1", "how fast"),
        Option("mode", '"a" | "b"', '"a"', "", "which"),
        Option("limit", "int | none", "none", "", "how many"),
        Option("names", "list[str]", '["x"]', "length ≥ 1", "whose"),
    ]


def test_a_spec_says_what_it_is_without_its_indentation() -> None:
    assert doc(First) == "The first\nof its kind."
