"""What the tests of the kernel share: a registry of toys alone, and a bus that remembers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar

import hypothesis
import pytest
from msgspec import Meta

from truing.check import PHASE_DATA, PHASE_MODEL
from truing.fields import CHOSEN, COMPLETIONS, GROUP, IDS, LOGPROBS, PROMPTS, REJECTED, SCORES, Fields, fields
from truing.plugins import Plugins
from truing.recipe import Recipe, read
from truing.registry import Registry
from truing.stage import AnySpec, GeneratorSpec, LossSpec, SourceSpec
from truing.testing import TOYS, ToyModelSpec

hypothesis.settings.register_profile("many", max_examples=10_000)


class Rows(SourceSpec, frozen=True, kw_only=True):
    """Demonstrations, or pairs where both columns are named."""

    name: ClassVar[str] = "rows"
    target: ClassVar[str] = "truing.testing:ToySource"
    offers: ClassVar = dict.fromkeys((CHOSEN, REJECTED), "with a `chosen` and a `rejected` column")
    path: Annotated[str, Meta(description="a file")]
    chosen: Annotated[str | None, Meta(description="column of the better one")] = None

    def provides(self) -> Fields:
        text = fields(IDS, PROMPTS, COMPLETIONS, GROUP)
        return text | fields(CHOSEN, REJECTED) if self.chosen else text


class Kept(SourceSpec, frozen=True, kw_only=True):
    """Reads what an earlier phase wrote."""

    name: ClassVar[str] = "kept"
    target: ClassVar[str] = "truing.testing:ToySource"
    path: Annotated[str, Meta(description="a file, or @phase", extra=PHASE_DATA)]
    scored: Annotated[bool, Meta(description="whether it needs scores")] = False

    def provides(self) -> Fields:
        return fields(IDS, PROMPTS, COMPLETIONS, GROUP)

    def reads(self) -> Fields:
        return fields(SCORES) if self.scored else fields()


class Writer(GeneratorSpec, frozen=True, kw_only=True):
    """Writes completions."""

    name: ClassVar[str] = "toy-writer"
    target: ClassVar[str] = "truing.testing:nothing"

    def provides(self) -> Fields:
        return fields(COMPLETIONS, GROUP)


class Phased(ToyModelSpec, frozen=True, kw_only=True):
    """A toy that can begin with what an earlier phase made."""

    name: ClassVar[str] = "phased"
    path: Annotated[str, Meta(description="a folder, or @phase", extra=PHASE_MODEL)] = ""
    note: Annotated[str, Meta(description="any text")] = ""


class Pairs(LossSpec, frozen=True, kw_only=True):
    """Compares."""

    name: ClassVar[str] = "pairs"
    target: ClassVar[str] = "truing.testing:toy_loss"
    beta: Annotated[float, Meta(gt=0, le=1, description="strength")] = 0.1

    def requires(self) -> Fields:
        return fields(LOGPROBS, CHOSEN, REJECTED)


class Single(LossSpec, frozen=True, kw_only=True):
    """Imitates."""

    name: ClassVar[str] = "single"
    target: ClassVar[str] = "truing.testing:toy_loss"
    refuses: ClassVar = {CHOSEN: "map the chosen column alone"}

    def requires(self) -> Fields:
        return fields(LOGPROBS)


@pytest.fixture
def plugins() -> Plugins:
    """The toys, and nothing that is installed."""
    registry = Registry()
    some: list[type[AnySpec]] = [*TOYS, Rows, Kept, Writer, Phased, Pairs, Single]
    registry.add_all(some, "toys")
    return Plugins(registry, [], [])


@pytest.fixture
def recipe(plugins: Plugins) -> Callable[..., Recipe]:
    """A recipe from its text, over the toys."""
    return lambda text, *overrides, name="recipe.toml": read(text, name, plugins, overrides)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for runs."""
    return tmp_path / "runs"
