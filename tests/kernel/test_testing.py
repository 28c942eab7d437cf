"""The kit for plugin authors: it lets sound specs through and says in words what is wrong with the others."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import pytest
from msgspec import Meta

from truing.errors import UserError
from truing.events import CheckpointSaved, GroupDropped, Notice, RunEnded, StepDone
from truing.fields import LOGPROBS, Fields
from truing.run import Stop
from truing.stage import Fault, LossSpec, ModelSpec, SourceSpec
from truing.testing import (
    TOY_RECIPE,
    TOYS,
    RecordingObserver,
    ToyLossSpec,
    check_imports,
    check_spec,
    importers,
    recipe,
    run_recipe,
)


@pytest.mark.parametrize("spec", TOYS, ids=lambda spec: spec.__name__)
def test_the_toys_keep_their_promises(spec):
    check_spec(spec)


class Sound(ToyLossSpec, frozen=True, kw_only=True):
    """A loss that keeps its promises."""


class Nameless(Sound, frozen=True, kw_only=True):
    """No name."""

    name: ClassVar[str] = ""


class Undocumented(Sound, frozen=True, kw_only=True):
    pass


class Aimless(Sound, frozen=True, kw_only=True):
    """No colon in its target."""

    target: ClassVar[str] = "truing.testing.toy_loss"


class Mute(SourceSpec, frozen=True, kw_only=True):
    """An option without a description."""

    name: ClassVar[str] = "mute"
    target: ClassVar[str] = "truing.testing:ToySource"
    groups: int = 8


class Needy(SourceSpec, frozen=True, kw_only=True):
    """A required option."""

    name: ClassVar[str] = "needy"
    target: ClassVar[str] = "truing.testing:ToySource"
    path: Annotated[str, Meta(description="a file")]


class Listing(Sound, frozen=True, kw_only=True):
    """Fields in a list."""

    def requires(self) -> Fields:
        return [LOGPROBS]  # type: ignore[return-value]


class Blaming(Sound, frozen=True, kw_only=True):
    """A fault at an option of somebody else's."""

    def problems(self) -> Iterable[Fault]:
        yield Fault("beta", "too steep")


class Surplus(Sound, frozen=True, kw_only=True):
    """An option its function knows nothing of."""

    beta: Annotated[float, Meta(description="nothing")] = 0.1


class Lost(Sound, frozen=True, kw_only=True):
    """A target that is not there."""

    target: ClassVar[str] = "truing.testing:no_such_loss"


class Misbuilt(ModelSpec, frozen=True, kw_only=True):
    """A target that cannot be built from (spec, run)."""

    name: ClassVar[str] = "misbuilt"
    target: ClassVar[str] = "truing.testing:check_imports"


class Forgetful(Sound, frozen=True, kw_only=True):
    """An option that TOML gives back as something else."""

    scale: Annotated[Any, Meta(description="a tuple")] = (1.0,)


class Unlikely(Sound, frozen=True, kw_only=True):
    """A default outside of its own bounds."""

    scale: Annotated[float, Meta(gt=1, description="how much")] = 0.5


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (Nameless, "give it a name"),
        (Undocumented, "its docstring is what `truing show loss toy` says"),
        (Aimless, 'target must be "module:attribute"'),
        (Mute, "Mute.groups: say what it is"),
        (Needy, "Needy.path is required; give check_spec a value: check_spec(Needy, path=...)"),
        (Listing, "Listing.requires() must give a set of fields"),
        (Blaming, "about its own options"),
        (Surplus, "its options are ['beta', 'scale'], but truing.testing:toy_loss takes ['scale']"),
        (Lost, 'target "truing.testing:no_such_loss" cannot be imported'),
        (Misbuilt, "is built with (spec, run)"),
        (Forgetful, "written as TOML and read again is another"),
        (Unlikely, "cannot be written as TOML and read again: Expected `float` > 1"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_promise_is_said_in_words(spec, told):
    with pytest.raises(AssertionError) as refused:
        check_spec(spec)
    assert told in str(refused.value)


def test_a_spec_with_a_required_option_is_checked_with_the_value_it_is_given():
    check_spec(Needy, path="data.jsonl")


def test_a_spec_without_a_kind_is_refused():
    class Kindless(LossSpec, frozen=True, kw_only=True):
        """Of no kind."""

        kind: ClassVar[str] = "lots"

    with pytest.raises(AssertionError, match="derive from LossSpec"):
        check_spec(Kindless)


def test_a_menu_that_imports_nothing_heavy_is_let_through():
    check_imports("truing.testing")


def test_a_menu_that_imports_something_heavy_is_told_who_did_it(tmp_path, monkeypatch):
    (tmp_path / "innocent.py").write_text("import guilty\n")
    (tmp_path / "guilty.py").write_text("import torch\n")
    (tmp_path / "torch.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(AssertionError, match="importing innocent imports torch: innocent > guilty > torch"):
        check_imports("innocent")


def test_a_menu_that_cannot_be_imported_is_told_why():
    with pytest.raises(AssertionError, match="No module named 'nowhere'"):
        check_imports("nowhere")


def test_importers_are_named_outermost_first():
    lines = [
        "import time: 1 | 1 |     torch",
        "import time: 1 | 1 |   b",
        "import time: 1 | 1 |   c",
        "import time: 1 | 1 | a",
    ]
    assert importers("\n".join(lines), "torch") == "a > b > torch"


def test_a_recipe_in_a_test_is_checked_like_any_other():
    with pytest.raises(UserError) as refused:
        recipe(TOY_RECIPE, *TOYS, overrides=["loss.scael=1"])
    assert 'did you mean "scale"?' in str(refused.value)
    assert recipe(TOY_RECIPE, *TOYS).name == "toy"


def test_a_toy_run_learns_saves_and_says_what_it_did(tmp_path):
    observer = RecordingObserver()
    ran = run_recipe(recipe(TOY_RECIPE, *TOYS), tmp_path, extra=[observer])
    assert ran.status == "finished"
    saved = json.loads((ran.folder / "model/toy.json").read_bytes())
    assert saved["version"] == 4
    assert saved["learned"] == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]]
    assert saved["weight"] == pytest.approx(0.9**4)
    assert observer.events == ran.events
    assert observer.opened
    assert observer.closed


def test_a_toy_model_drops_the_groups_it_is_told_to(tmp_path):
    ran = run_recipe(recipe(TOY_RECIPE, *TOYS, overrides=['model.drop=["3"]']), tmp_path)
    assert [event.id for event in ran.events if isinstance(event, GroupDropped)] == ["3"]


def test_a_toy_model_raises_when_it_is_told_to(tmp_path):
    with pytest.raises(RuntimeError, match="fail at step 3"):
        run_recipe(recipe(TOY_RECIPE, *TOYS, overrides=["model.fail_at=3"]), tmp_path)


class Impatient(RecordingObserver):
    """Asks for a stop after so many steps."""

    def __init__(self, stop: Stop, steps: int) -> None:
        super().__init__()
        self._stop, self._steps = stop, steps

    async def observe(self, event):
        await super().observe(event)
        if isinstance(event, StepDone) and event.step == self._steps:
            self._stop.ask("enough")


def test_a_toy_run_that_was_stopped_goes_on_to_the_same_end(tmp_path):
    """A step takes long enough for the observer to be heard before the next one is done."""
    whole = run_recipe(recipe(TOY_RECIPE, *TOYS), tmp_path / "whole")
    stop = Stop()
    slow = recipe(TOY_RECIPE, *TOYS, overrides=["model.seconds=0.2"])
    half = run_recipe(slow, tmp_path / "half", stop=stop, extra=[Impatient(stop, 2)])
    assert half.status == "interrupted"
    assert [event.step for event in half.events if isinstance(event, CheckpointSaved)] == [2]
    rest = run_recipe(recipe(TOY_RECIPE, *TOYS), half.folder, resumed=True)
    assert rest.status == "finished"
    ends = [(ran.folder / "model/toy.json").read_bytes() for ran in (whole, rest)]
    assert ends[0] == ends[1]


def test_a_toy_observer_fails_where_it_is_told_to(tmp_path):
    watched = TOY_RECIPE + '\n[[observer]]\nuse = "toy"\nfail = "observe"\n'
    ran = run_recipe(recipe(watched, *TOYS), tmp_path)
    assert ran.status == "finished"
    assert any(isinstance(event, Notice) and "told to fail at observe" in event.text for event in ran.events)
    assert any(isinstance(event, RunEnded) and event.status == "finished" for event in ran.events)
