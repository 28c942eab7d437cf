"""For plugin authors: does a spec keep its promises, and toy stages to try a loop with.

    from truing.testing import check_spec, check_imports, recipe, run_recipe

    def test_my_loss_keeps_its_promises():
        check_imports("truing_mine.plugin")
        check_spec(MyLoss)

A toy phase is plain Python arithmetic, so a test of a loop, an observer or a command needs no torch:

    run_recipe(recipe(TOY_RECIPE, *TOYS), tmp_path)

The arithmetic of a loss is held to its word by `truing_tensor.testing.check_loss`.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

import anyio
import msgspec
from msgspec import Meta

from truing.conduct import conduct
from truing.errors import RunFailed
from truing.events import Event
from truing.fields import COMPLETIONS, GROUP, IDS, LOGPROBS, PROMPTS, Batch, Field, Fields, fields
from truing.journal import Journal
from truing.plugins import Plugins, discover
from truing.recipe import Recipe, plain, read
from truing.registry import Registry, options
from truing.run import Run, Stop, Stopped
from truing.stage import (
    KINDS,
    AnySpec,
    DataInfo,
    Encoded,
    Fault,
    Loss,
    LossSpec,
    LossValue,
    ModelSpec,
    ObserverSpec,
    Optimizer,
    OptimizerSpec,
    SourceSpec,
    Term,
    within,
)

HEAVY = ("torch", "numpy", "transformers", "accelerate", "peft", "datasets", "pyarrow", "pandas", "scipy", "mlflow")
"""What no menu of specs may import: each costs a second or so before `truing check` can say anything."""


def check_spec(spec: type[AnySpec], **given: Any) -> None:
    """Raise AssertionError, in words, for the first promise a spec breaks. `given`: values for its required options."""
    who = spec.__qualname__
    assert spec.kind in KINDS, f"{who}: kind must be one of {', '.join(KINDS)}; derive from LossSpec or another of them"
    assert spec.name, f'{who}: give it a name, what a recipe writes after use: name: ClassVar[str] = "..."'
    assert spec.target.count(":") == 1, f'{who}: target must be "module:attribute", not {spec.target!r}'
    assert spec.__doc__, f"{who}: its docstring is what `truing show {spec.kind} {spec.name}` says; write one"
    for option in options(spec):
        assert option.meaning, f"{who}.{option.name}: say what it is: Annotated[..., Meta(description=...)]"
        needed = option.default is None and option.name not in given
        assert not needed, (
            f"{who}.{option.name} is required; give check_spec a value: check_spec({who}, {option.name}=...)"
        )
    _check_instance(spec(**given), who)
    _check_target(spec, who)


def check_imports(module: str) -> None:
    """Raise AssertionError if importing a module of specs imports anything heavy, naming the first module that did."""
    looking = f"import sys, {module}; print(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    paths = os.pathsep.join(filter(None, sys.path))
    asked = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", looking],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, f"{module} cannot be imported:\n{asked.stderr}"
    heavy = asked.stdout.split()
    assert not heavy, f"importing {module} imports {', '.join(heavy)}: {importers(asked.stderr, heavy[0])}"


def importers(importtime: str, module: str) -> str:
    """Who imported a module first, outermost first, from what `python -X importtime` printed: `a > b > torch`."""
    chain: list[str] = []
    depth = 0
    for line in importtime.splitlines():
        label = line.rpartition("|")[2]
        level = len(label) - len(label.lstrip())
        if not chain and label.strip() != module:
            continue
        if not chain or level < depth:
            chain.append(label.strip())
            depth = level
    return " > ".join(reversed(chain))


def _check_instance(spec: AnySpec, who: str) -> None:
    promises: dict[str, Any] = {"requires": spec.requires(), "provides": spec.provides()}
    for word, promised in promises.items():
        sound = isinstance(promised, frozenset) and all(
            isinstance(field, Field) for field in cast("frozenset[object]", promised)
        )
        assert sound, f"{who}.{word}() must give a set of fields: return fields(LOGPROBS, ...)"
    for word, told in (("offers", spec.offers), ("refuses", spec.refuses)):
        sound = all(
            isinstance(field, Field) and isinstance(text, str)
            for field, text in cast("Mapping[Any, Any]", told).items()
        )
        assert sound, f"{who}.{word} must say a sentence for each field: {{VALUES: 'with value_head = true'}}"
    names = {option.name for option in options(type(spec))}
    for fault in cast("Iterable[Any]", spec.problems()):
        sound = isinstance(fault, Fault) and fault.option in names
        assert sound, f"{who}.problems() must give Fault(option, what, mend) about its own options, not {fault!r}"
    try:
        table = msgspec.toml.decode(msgspec.toml.encode(plain(spec)))
        del table["use"]
        again = spec if len(list(within(spec))) > 1 else msgspec.convert(table, type(spec))
    except (msgspec.ValidationError, TypeError) as error:
        raise AssertionError(f"{who} cannot be written as TOML and read again: {error}") from error
    assert again == spec, f"{who} written as TOML and read again is another: {again} instead of {spec}"


def _check_target(spec: type[AnySpec], who: str) -> None:
    try:
        target = spec.implementation()
    except (ImportError, AttributeError) as error:
        raise AssertionError(f'{who}: target "{spec.target}" cannot be imported: {error}') from error
    assert callable(target), f'{who}: target "{spec.target}" is nothing that can be called'
    signature = inspect.signature(target)
    if issubclass(spec, LossSpec):
        keywords = {
            name for name, entry in signature.parameters.items() if entry.kind is inspect.Parameter.KEYWORD_ONLY
        }
        known = {option.name for option in options(spec)}
        assert keywords == known, f"{who}: its options are {sorted(known)}, but {spec.target} takes {sorted(keywords)}"
    else:
        try:
            signature.bind("spec", "run")
        except TypeError as error:
            raise AssertionError(f"{who}: {spec.target} is built with (spec, run): {error}") from None


def with_specs(*specs: type[AnySpec]) -> Plugins:
    """The installed plugins, and these specs as if a plugin called `test` had brought them."""
    plugins = discover()
    for spec in specs:
        plugins.registry.add(spec, "test")
    return plugins


def recipe(text: str, *specs: type[AnySpec], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a text, over the installed plugins and these specs. Raises UserError as `truing check` would."""
    return read(text, "recipe.toml", with_specs(*specs), overrides)


class Ran(NamedTuple):
    """How a run ended, and everything it said on the way."""

    status: str
    folder: Path
    events: list[Event]


def run_recipe(
    recipe: Recipe, folder: Path, *, stop: Stop | None = None, extra: Sequence[Any] = (), resumed: bool = False
) -> Ran:
    """Run a recipe in a new folder below `folder`; `resumed`: go on in `folder` itself. Raises what the run raised."""
    journal = Journal(folder) if resumed else Journal.create(folder, recipe, {})
    nothing = Plugins(Registry(), [], [])
    stop = Stop() if stop is None else stop
    status = anyio.run(partial(conduct, recipe, journal, nothing, stop, extra, resumed))
    return Ran(status, journal.folder, [event for _, event in journal.events()])


class ToySource:
    """Counts: group `3` asks "3" and answers "4". The order depends on the epoch alone."""

    def __init__(self, spec: ToySourceSpec, run: Run) -> None:
        self._groups = spec.groups

    async def open(self) -> DataInfo:
        return DataInfo(name="toy", digest=f"toy-{self._groups}", groups=self._groups, skipped=0, origin="counting")

    async def batches(self, size: int, epoch: int) -> AsyncIterator[Batch]:
        order = [(number + epoch) % self._groups for number in range(self._groups)]
        for start in range(0, self._groups, size):
            taken = order[start : start + size]
            texts = {PROMPTS: [str(number) for number in taken], COMPLETIONS: [str(number + 1) for number in taken]}
            yield Batch({IDS: [str(number) for number in taken], GROUP: list(range(len(taken))), **texts})


class ToyModel:
    """One number that learns: every step takes it nearer to 0, by the optimizer's rate times the loss.

    It keeps the ids of what it learned from, step by step, through checkpoints and into what it exports (`toy.json`).
    """

    def __init__(self, spec: ToyModelSpec, run: Run) -> None:
        self._spec, self._run = spec, run
        self._rate = 0.0
        self.version = 0
        self.weight = spec.start
        self.learned: list[list[str]] = []
        time.sleep(spec.build_seconds)

    def encode(self, batch: Batch) -> Encoded:
        kept = [at for at, name in enumerate(batch[IDS]) if name not in self._spec.drop]
        dropped = [(name, "told to drop it") for name in batch[IDS] if name in self._spec.drop]

        def picked(key: Field[Any]) -> list[Any]:
            return [batch[key][at] for at in kept]

        values = {IDS: picked(IDS), PROMPTS: picked(PROMPTS), COMPLETIONS: picked(COMPLETIONS)}
        return Encoded(Batch({**values, GROUP: list(range(len(kept)))}), dropped)

    def annotate(self, batch: Batch, wanted: Fields) -> Batch:
        return batch

    def attach(self, optimizer: Optimizer, steps: int) -> None:
        assert isinstance(optimizer, ToyOptimizer), "a toy model is moved by a toy optimizer"
        self._rate = optimizer.rate

    def learn(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        self._work()
        if self.version + 1 == self._spec.fail_at:
            raise RuntimeError(f"the toy was told to fail at step {self.version + 1}")
        metrics = self.measure(batch, loss)
        self.weight -= self._rate * metrics["loss"]
        self.version += 1
        self.learned.append(list(batch[IDS]))
        return {**metrics, "weight": self.weight, "tokens": float(len(batch[IDS]))}

    def measure(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        scored = batch.put_all({LOGPROBS: [self.weight] * len(batch[IDS])})
        total = sum(cast(float, term.total) * term.weight for term in loss(scored).terms.values())
        return {"loss": total / len(batch[IDS])}

    def weights(self) -> Any:
        return self

    def checkpoint(self, folder: Path) -> None:
        folder.joinpath("toy.json").write_bytes(msgspec.json.encode(self._state()))

    def restore(self, folder: Path) -> None:
        state = msgspec.json.decode(folder.joinpath("toy.json").read_bytes())
        self.weight, self.version, self.learned = state["weight"], state["version"], state["learned"]

    def export(self, folder: Path) -> Mapping[str, Any]:
        self.checkpoint(folder)
        return {"architecture": "toy", "parameters": 1}

    def _state(self) -> dict[str, Any]:
        return {"weight": self.weight, "version": self.version, "learned": self.learned}

    def _work(self) -> None:
        """Take as long as told to, letting go at once when the run is asked to stop."""
        until = time.monotonic() + self._spec.seconds
        while not self._run.stop and time.monotonic() < until:
            time.sleep(0.005)
        if self._run.stop:
            raise Stopped


class ToyOptimizer:
    """Carries a rate to a toy model."""

    clip = 0.0

    def __init__(self, spec: ToyOptimizerSpec, run: Run) -> None:
        self.rate = spec.rate

    def over(self, parameters: Mapping[str, Any], steps: int) -> Any:
        raise RunFailed("a toy optimizer moves toy models only")


def toy_loss(batch: Batch, *, scale: float) -> LossValue:
    """The sum of the toy model's answers, times `scale`."""
    total: Any = scale * sum(cast("Iterator[float]", batch[LOGPROBS]))
    return LossValue({"toy": Term(total, "group")})


class RecordingObserver:
    """Keeps every event it is shown; raises where it is told to."""

    def __init__(self, spec: ToyObserverSpec | None = None, run: Run | None = None) -> None:
        self._fail = spec.fail if spec else ""
        self.events: list[Event] = []
        self.opened = self.closed = False

    async def open(self) -> None:
        self._maybe("open")
        self.opened = True

    async def observe(self, event: Event) -> None:
        self._maybe("observe")
        self.events.append(event)

    async def close(self) -> None:
        self._maybe("close")
        self.closed = True

    def _maybe(self, moment: str) -> None:
        if self._fail == moment:
            raise RuntimeError(f"the recorder was told to fail at {moment}")


class ToySourceSpec(SourceSpec, frozen=True, kw_only=True):
    """Counts from 0."""

    name: ClassVar[str] = "toy"
    target: ClassVar[str] = "truing.testing:ToySource"
    groups: Annotated[int, Meta(ge=0, description="how far it counts")] = 8

    def provides(self) -> Fields:
        return fields(IDS, PROMPTS, COMPLETIONS, GROUP)


class ToyModelSpec(ModelSpec, frozen=True, kw_only=True):
    """One number that learns."""

    name: ClassVar[str] = "toy"
    target: ClassVar[str] = "truing.testing:ToyModel"
    start: Annotated[float, Meta(description="the number it begins with")] = 1.0
    seconds: Annotated[float, Meta(ge=0, description="how long a step takes")] = 0.0
    build_seconds: Annotated[float, Meta(ge=0, description="how long building it takes")] = 0.0
    fail_at: Annotated[int, Meta(ge=0, description="the step at which learning raises; 0: never")] = 0
    drop: Annotated[list[str], Meta(description="ids of groups it refuses to encode")] = []

    def requires(self) -> Fields:
        return fields(IDS, PROMPTS, COMPLETIONS, GROUP)

    def provides(self) -> Fields:
        return fields(LOGPROBS)


class ToyOptimizerSpec(OptimizerSpec, frozen=True, kw_only=True):
    """Moves a toy model."""

    name: ClassVar[str] = "toy"
    target: ClassVar[str] = "truing.testing:ToyOptimizer"
    rate: Annotated[float, Meta(gt=0, description="how much of the loss a step takes off the number")] = 0.1


class ToyLossSpec(LossSpec, frozen=True, kw_only=True):
    """The sum of what the toy model answers."""

    name: ClassVar[str] = "toy"
    target: ClassVar[str] = "truing.testing:toy_loss"
    scale: Annotated[float, Meta(gt=0, description="what the sum is multiplied by")] = 1.0

    def requires(self) -> Fields:
        return fields(LOGPROBS)


class ToyObserverSpec(ObserverSpec, frozen=True, kw_only=True):
    """Keeps every event in memory."""

    name: ClassVar[str] = "toy"
    target: ClassVar[str] = "truing.testing:RecordingObserver"
    fail: Annotated[Literal["", "open", "observe", "close"], Meta(description="where it raises; empty: nowhere")] = ""


TOYS: tuple[type[AnySpec], ...] = (ToySourceSpec, ToyModelSpec, ToyOptimizerSpec, ToyLossSpec, ToyObserverSpec)

TOY_RECIPE = """\
name = "toy"

[source]
use = "toy"

[model]
use = "toy"

[optimizer]
use = "toy"

[loss]
use = "toy"

[loop]
batch = 2
"""
