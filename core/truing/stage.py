"""The stages of a recipe, as protocols, and the specs that promise them.

A **spec** holds a component's options, what it needs on a batch, what it adds, and where its implementation lives. It
imports nothing heavy, so a whole recipe is typed, resolved and checked before anything is built.

Input and output are asynchronous; mathematics is plain functions that the loop runs in a thread.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypeVar,
    cast,
    get_args,
    get_origin,
)

import msgspec

from truing.events import Event
from truing.fields import Batch, Field, Fields, fields
from truing.run import Run

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer as TorchOptimizer
    from torch.optim.lr_scheduler import LRScheduler

C = TypeVar("C", covariant=True)


class DataInfo(NamedTuple):
    """What a source found when it was opened. groups: per epoch; skipped: unusable rows left out."""

    name: str
    digest: str
    groups: int
    skipped: int
    origin: str


class Source(Protocol):
    """Where groups come from: a file, a hub, a generator of puzzles."""

    async def open(self) -> DataInfo:
        """Read and verify. Raises UserError naming every unusable row, unless the source is told to skip them."""
        ...

    def batches(self, size: int, epoch: int) -> AsyncIterator[Batch]:
        """One pass over the data, `size` groups at a time, the last batch maybe smaller. The order depends on the run's
        seed and on `epoch` alone, so a resumed run sees what it would have seen."""
        ...


class Weights(Protocol):
    """The weights of a model at one version, for whoever samples from it.

    origin: a folder or hub id from which transformers loads its configuration and its tokenizer.
    """

    version: int
    origin: str

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        """Every tensor of the model by the name transformers gives it, adapters merged in."""
        ...

    def reference(self) -> Weights:
        """The weights of the reference that the phase is held to: as it was loaded, whatever was learned or resumed."""
        ...


class Generator(Protocol):
    """Adds completions to prompts."""

    async def generate(self, batch: Batch) -> Batch:
        """The batch with completions for every prompt: their text and tokens, and the log-probability of each."""
        ...

    async def sync_weights(self, weights: Weights) -> None:
        """Sample from these weights from now on."""
        ...


class Scorer(Protocol):
    """Adds scores to completions."""

    async def score(self, batch: Batch) -> Batch: ...


class AdvantageEstimator(Protocol):
    """Turns scores into advantages."""

    def estimate(self, batch: Batch) -> Batch: ...


class Term(NamedTuple):
    """A sum and what it is a mean over.

    The denominator is the count of `per` in the whole step, not in a micro-batch, or a number of the loss's own
    choosing; so the gradient of a step is the same however the batch is cut.
    """

    total: Tensor
    per: Literal["token", "seq", "pair", "group", "step"] | float
    weight: float = 1.0


class LossValue(NamedTuple):
    """terms: what is minimised. metrics: what is only reported, averaged over the step in the same way."""

    terms: Mapping[str, Term]
    metrics: Mapping[str, Term] = {}


class Loss(Protocol):
    """A short function over flat tensors."""

    def __call__(self, batch: Batch, /) -> LossValue: ...


@dataclass(frozen=True)
class DeclaredLoss:
    """A loss that is handed the fields it declared, and nothing else."""

    function: Loss
    needs: Fields
    whole_step: bool = False
    by_completion: bool = False

    def __call__(self, batch: Batch) -> LossValue:
        return self.function(batch.only(self.needs))


class Optimizer(Protocol):
    """How parameters move. clip: the largest norm of a step's gradient, 0 for no limit."""

    clip: float

    def over(self, parameters: Mapping[str, Parameter], steps: int) -> tuple[TorchOptimizer, LRScheduler]:
        """The optimizer of these parameters and its schedule over `steps` steps."""
        ...


class Encoded(NamedTuple):
    """A batch with tokens. dropped: (group id, reason) of groups left out. truncated: how many completions were cut."""

    batch: Batch
    dropped: Sequence[tuple[str, str]] = ()
    truncated: int = 0


class Model(Protocol):
    """The one thing that learns. version: optimizer steps taken."""

    version: int

    def encode(self, batch: Batch) -> Encoded:
        """Text to tokens, the chat template applied once."""
        ...

    def annotate(self, batch: Batch, wanted: Fields) -> Batch:
        """Add fields that a forward pass gives, without gradients."""
        ...

    def attach(self, optimizer: Optimizer, steps: int) -> None:
        """Prepare to learn for so many steps."""
        ...

    def learn(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """One optimizer step. Raises Stopped, with nothing changed, when the run was asked to stop meanwhile."""
        ...

    def measure(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """The loss's terms and metrics on a batch, without learning. Raises Stopped."""
        ...

    def weights(self) -> Weights:
        """Its weights as they are now; they are read before the next step is learned."""
        ...

    def checkpoint(self, folder: Path) -> None:
        """Write all that is needed to go on: weights, optimizer, schedule, random state."""
        ...

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        ...

    def export(self, folder: Path) -> Mapping[str, Any]:
        """Write the model for everybody else, and say what it is."""
        ...


class Observer(Protocol):
    """Watches a run: tracking, progress, monitors. It must open, or the run does not start; after that it never stops
    training: what it raises is reported and it is left out."""

    async def open(self) -> None: ...

    async def observe(self, event: Event) -> None: ...

    async def close(self) -> None: ...


class Fault(NamedTuple):
    """A mistake among a component's options, at one of them."""

    option: str
    what: str
    mend: str = ""


class Spec(msgspec.Struct, Generic[C], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A promise of a component: its options are the struct's fields, each with `Meta(description=...)`.

    name: what a recipe writes after `use =`. target: `module:attribute` of the implementation. An option may be a
    component of its own, `scorer: ScorerSpec`, a list of them, or some by name: a recipe writes each as a table with
    `use`.
    offers: fields that some options would make it provide, and how, for the mend of an unmet need.
    refuses: fields that mean data of the wrong form, and how to mend it.
    """

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""
    target: ClassVar[str] = ""
    offers: ClassVar[Mapping[Field[Any], str]] = {}
    refuses: ClassVar[Mapping[Field[Any], str]] = {}

    def requires(self) -> Fields:
        """What must be on the batch; may depend on the options."""
        return fields()

    def provides(self) -> Fields:
        """What it adds to the batch; may depend on the options."""
        return fields()

    def reads(self) -> Fields:
        """What must be on the data of an earlier phase, if an option names one."""
        return fields()

    def problems(self) -> Iterable[Fault]:
        """Missing files and impossible combinations of options, found without importing anything heavy."""
        return ()

    def build(self, run: Run) -> C:
        """The component itself. The only place that imports the target."""
        return cast(C, self.implementation()(self, run))

    @classmethod
    def implementation(cls) -> Any:
        """What `target` names."""
        module, _, attribute = cls.target.partition(":")
        return getattr(importlib.import_module(module), attribute)


AnySpec = Spec[Any]


def component_of(hint: Any) -> type[AnySpec] | None:
    """The kind of component that an option takes, one, a list of them, or some by name; None for plain values."""
    if get_origin(hint) in (Annotated, list):
        return component_of(get_args(hint)[0])
    if get_origin(hint) is dict:
        return component_of(get_args(hint)[1])
    if choices := [choice for choice in get_args(hint) if choice is not type(None)]:
        return component_of(choices[0]) if len(choices) == 1 else None
    return cast("type[AnySpec]", hint) if isinstance(hint, type) and issubclass(hint, Spec) else None


def within(spec: AnySpec) -> Iterator[tuple[tuple[str | int, ...], AnySpec]]:
    """A component and those inside of it, at any depth, each with the path of the options that lead to it."""
    yield (), spec
    for option in msgspec.structs.fields(type(spec)):
        value: Any = getattr(spec, option.name)
        held: Iterable[tuple[Any, Any]] = [(None, value)]
        if isinstance(value, list):
            held = enumerate(cast("list[Any]", value))
        elif isinstance(value, dict):
            held = cast("dict[Any, Any]", value).items()
        for key, each in held:
            if isinstance(each, Spec):
                path = (option.name,) if key is None else (option.name, key)
                yield from (((*path, *deeper), inner) for deeper, inner in within(cast(AnySpec, each)))


class SourceSpec(Spec[Source], frozen=True, kw_only=True):
    kind: ClassVar[str] = "source"


class GeneratorSpec(Spec[Generator], frozen=True, kw_only=True):
    kind: ClassVar[str] = "generator"


class ScorerSpec(Spec[Scorer], frozen=True, kw_only=True):
    kind: ClassVar[str] = "scorer"

    def unit(self) -> str:
        """The unit of its scores, in which those of several can be compared; "": one of its own."""
        return ""


class AdvantageSpec(Spec[AdvantageEstimator], frozen=True, kw_only=True):
    kind: ClassVar[str] = "advantage"


class LossSpec(Spec[Loss], frozen=True, kw_only=True):
    """A loss's target is a plain function: `def hinge(batch, *, beta) -> LossValue`, its keywords named as options.

    whole_step: it compares groups with each other, so it must see all of a step at once and not micro-batch by
    micro-batch. by_completion: it looks at each completion by itself, so a large group may be cut.
    """

    kind: ClassVar[str] = "loss"
    whole_step: ClassVar[bool] = False
    by_completion: ClassVar[bool] = False

    def build(self, run: Run) -> Loss:
        function = partial(self.implementation(), **msgspec.structs.asdict(self))
        return DeclaredLoss(function, self.requires(), self.whole_step, self.by_completion)


class OptimizerSpec(Spec[Optimizer], frozen=True, kw_only=True):
    kind: ClassVar[str] = "optimizer"


class ModelSpec(Spec[Model], frozen=True, kw_only=True):
    """planner: `module:attribute` of a function that tells what a phase will take before its weights are there; without
    one, `truing plan` says nothing of the model.

        planner(phase, batches, *, steps, per_epoch, looks, earlier) -> Estimate | None

    phase: its typed tables. batches: some of its steps as its source gives them. steps: how many it has, `per_epoch` of
    them until the data come round again. looks: groups that are looked at without learning. earlier: specs of the
    models of the phases before, by name. None: it cannot say.
    """

    kind: ClassVar[str] = "model"
    planner: ClassVar[str] = ""

    def encodes(self) -> Fields:
        """What `encode` adds to prompts that have no completions yet: what a generator can build on."""
        return fields()

    def leaves(self, held_out: bool) -> Fields:
        """What a later phase may read of the model that was made. held_out: beside a [holdout]."""
        return fields()


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a phase will take. memory: bytes, by what they are for, each at its most. peak: the most at one time, and
    free: what the device has to spare now. tokens: of a step. seconds: `step` is one of them, `phase` all there is;
    others say what a step's are for. notes: what it stands on."""

    parameters: int
    trained: int
    memory: Mapping[str, int]
    peak: int
    free: int
    tokens: float
    seconds: Mapping[str, float]
    notes: Sequence[str] = ()


class ObserverSpec(Spec[Observer], frozen=True, kw_only=True):
    """remote: it sends events somewhere else, so `truing track` can send later what did not arrive."""

    kind: ClassVar[str] = "observer"
    remote: ClassVar[bool] = False


KINDS: Mapping[str, type[AnySpec]] = {
    kind.kind: kind
    for kind in (
        SourceSpec,
        GeneratorSpec,
        ScorerSpec,
        AdvantageSpec,
        LossSpec,
        OptimizerSpec,
        ModelSpec,
        ObserverSpec,
    )
}
