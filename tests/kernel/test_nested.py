"""Components inside components: resolved, checked and written like any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from msgspec import Meta

from truing.check import PHASE_MODEL
from truing.cli.schema import recipe_schema
from truing.conduct import _flat  # pyright: ignore[reportPrivateUsage]
from truing.errors import Problem, UserError
from truing.fields import SCORES, Field, Fields, fields
from truing.plugins import Plugins
from truing.recipe import Recipe, read
from truing.registry import options
from truing.stage import Fault, ScorerSpec, within
from truing.testing import TOY_RECIPE, check_spec

GOOD: Field[Any] = Field("good", "seq")


class Judge(ScorerSpec, frozen=True, kw_only=True):
    """Scores alone."""

    name: ClassVar[str] = "judge"
    target: ClassVar[str] = "truing.testing:RecordingObserver"
    strict: Annotated[bool, Meta(description="whether it is")] = False
    path: Annotated[str, Meta(description="a model", extra=PHASE_MODEL)] = ""

    def requires(self) -> Fields:
        return fields(GOOD) if self.strict else fields()

    def provides(self) -> Fields:
        return fields(SCORES)

    def problems(self) -> Iterator[Fault]:
        if self.path == "nowhere":
            yield Fault("path", "no such model")


class Panel(ScorerSpec, frozen=True, kw_only=True):
    """Scores by others."""

    name: ClassVar[str] = "panel"
    target: ClassVar[str] = "truing.testing:RecordingObserver"
    judges: Annotated[list[ScorerSpec], Meta(description="who scores")]
    chair: Annotated[ScorerSpec | None, Meta(description="who decides")] = None
    guests: Annotated[dict[str, ScorerSpec], Meta(description="who else scores")] = {}

    def requires(self) -> Fields:
        return fields().union(*(judge.requires() for judge in self.judges))


@pytest.fixture
def panel(plugins: Plugins) -> Plugins:
    plugins.registry.add_all([Judge, Panel], "panel")
    return plugins


def made(panel: Plugins, scorer: str) -> Recipe:
    return read(f'{TOY_RECIPE}\n[generator]\nuse = "toy-writer"\n[scorer]\nuse = "panel"\n{scorer}\n', "r.toml", panel)


def told(panel: Plugins, scorer: str) -> list[Problem]:
    with pytest.raises(UserError) as error:
        made(panel, scorer)
    return error.value.problems


INNER = """
judges = [{use = "judge"}, {use = "panel", judges = [{use = "judge", path = "m"}]}]
chair = {use = "judge"}
guests.ann = {use = "judge", path = "n"}
"""


def test_an_inner_table_becomes_a_typed_component_at_any_depth(panel: Plugins) -> None:
    (phase,) = made(panel, INNER).phases
    judges: list[ScorerSpec] = [Judge(), Panel(judges=[Judge(path="m")])]
    assert phase.scorer == Panel(judges=judges, chair=Judge(), guests={"ann": Judge(path="n")})
    assert [path for path, _ in within(phase.scorer)] == [
        (),
        ("judges", 0),
        ("judges", 1),
        ("judges", 1, "judges", 0),
        ("chair",),
        ("guests", "ann"),
    ]


def test_a_recipe_with_inner_components_is_the_same_when_it_is_written_and_read_again(panel: Plugins) -> None:
    first = made(panel, INNER)
    again = read(msgspec.toml.encode(first.resolved()).decode(), "again.toml", panel)
    assert again.digest() == first.digest()


def test_inner_options_are_told_by_their_path(panel: Plugins) -> None:
    told_options = _flat(made(panel, 'judges = []\nchair = {use = "judge"}').phases[0])
    assert (told_options["scorer.use"], told_options["scorer.chair.strict"]) == ("panel", False)


@pytest.mark.parametrize(
    ("scorer", "what", "mend"),
    [
        ('judges = [{use = "jugde"}]', 'no scorer called "jugde"', 'did you mean "judge"?'),
        (
            'judges = [{use = "judge", strikt = true}]',
            '[[scorer.judges]] has no option "strikt"',
            'did you mean "strict"?',
        ),
        ("judges = [{strict = true}]", "[[scorer.judges]] must say which scorer to use", "write use ="),
        ("judges = [1]", "[[scorer.judges]] must be a table", ""),
        ('judges = {use = "judge"}', "[scorer.judges] is a list of components", "write each as [[scorer.judges]]"),
        ("judges = []\nguests = [1]", "[scorer.guests] is a table of components", "write each as [scorer.guests.NAME]"),
        ('judges = []\nguests.ann = {use = "jugde"}', 'no scorer called "jugde"', 'did you mean "judge"?'),
        ('judges = []\nchair = [{use = "judge"}]', "[scorer.chair] must be a table", ""),
        ('judges = [{use = "judge", path = "nowhere"}]', "no such model", ""),
        ('judges = [{use = "judge", path = "@sft"}]', 'no earlier phase called "sft" makes a model', ""),
        ('judges = [{use = "judge", strict = true}]', 'scorer "panel" needs `good`', ""),
    ],
)
def test_mistakes_inside_are_told_where_they_stand(panel: Plugins, scorer: str, what: str, mend: str) -> None:
    (problem,) = told(panel, scorer)
    assert problem.what.startswith(what)
    assert mend in problem.mend
    assert int(problem.where.rpartition(":")[2]) in range(len(TOY_RECIPE.splitlines()) + 3, 100)


def test_an_option_of_components_is_shown_as_their_kind(panel: Plugins) -> None:
    assert [option.type for option in options(Panel)] == ["list[scorer]", "scorer | none", "dict[str, scorer]"]


def test_the_schema_lets_an_inner_component_be_any_of_its_kind(panel: Plugins) -> None:
    schema = recipe_schema(panel.registry)
    body: Mapping[str, Any] = schema["definitions"]["Panel"]["properties"]["judges"]["items"]
    choices = schema["definitions"][body["$ref"].rpartition("/")[2]]["oneOf"]
    assert {"$ref": "#/definitions/Judge"} in choices


def test_a_spec_with_inner_components_keeps_its_promises() -> None:
    check_spec(Panel, judges=[Judge()])
