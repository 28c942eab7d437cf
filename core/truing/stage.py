"""The specs that promise the stages of a recipe. What a stage must do is in `protocols`; both are imported from here.

A **spec** holds a component's options, what it needs on a batch, what it adds, and where its implementation lives. It
imports nothing heavy, so a whole recipe is typed, resolved and checked before anything is built.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

from truing.fields import HEARD, Field, Fields, fields
from truing.protocols import (
    AdvantageEstimator as AdvantageEstimator,
    Controller as Controller,
    DataInfo as DataInfo,
    DeclaredLoss as DeclaredLoss,
    Encoded as Encoded,
    Environment as Environment,
    Episode as Episode,
    Generator as Generator,
    Look as Look,
    Loss as Loss,
    LossValue as LossValue,
    Memory as Memory,
    Model as Model,
    Observer as Observer,
    Optimizer as Optimizer,
    Reply as Reply,
    Said as Said,
    Scorer as Scorer,
    Source as Source,
    Task as Task,
    Term as Term,
    Weights as Weights,
)
from truing.run import Run

C = TypeVar("C", covariant=True)


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

    def insists(self) -> Fields:
        """What it provides that a loss must not pass over: without it, it would learn what is not so."""
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


@cache
def hints_of(struct: type[msgspec.Struct]) -> Mapping[str, Any]:
    """The type of each option. Worked out once: a recipe asks for those of all its parts, again and again."""
    return get_type_hints(struct, include_extras=True)


@cache
def options_of(struct: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    """The options by name, with their defaults."""
    return {option.name: option for option in msgspec.structs.fields(struct)}


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
    for option in spec.__struct_fields__:
        value: Any = getattr(spec, option)
        held: Iterable[tuple[Any, Any]] = [(None, value)]
        if isinstance(value, list):
            held = enumerate(cast("list[Any]", value))
        elif isinstance(value, dict):
            held = cast("dict[Any, Any]", value).items()
        for key, each in held:
            if isinstance(each, Spec):
                path = (option,) if key is None else (option, key)
                yield from (((*path, *deeper), inner) for deeper, inner in within(cast(AnySpec, each)))


class SourceSpec(Spec[Source], frozen=True, kw_only=True):
    """Options called `skip`, and `limit` or `size`, say which of its rows it has: a holdout that is alike in all else
    must have others."""

    kind: ClassVar[str] = "source"


class GeneratorSpec(Spec[Generator], frozen=True, kw_only=True):
    kind: ClassVar[str] = "generator"

    def one_turn(self, option: str) -> Iterable[Fault]:
        """A fault of whoever holds it as an `option` and hands on what it writes under other prompts, without what an
        environment said."""
        if HEARD in self.provides():
            yield Fault(option, "an environment answers what it writes, and that is lost here", "take it out there")


class EnvironmentSpec(Spec[Environment], frozen=True, kw_only=True):
    """Written inside of the generator whose completions it answers: `[generator.environment]`."""

    kind: ClassVar[str] = "environment"

    def stops(self) -> Sequence[str]:
        """Strings that end a turn, beside the model's end token."""
        return ()


class ScorerSpec(Spec[Scorer], frozen=True, kw_only=True):
    kind: ClassVar[str] = "scorer"

    def unit(self) -> str:
        """The unit of its scores, in which those of several can be compared; "": one of its own."""
        return ""


class LookSpec(Spec[Look], frozen=True, kw_only=True):
    kind: ClassVar[str] = "look"

    beside: Annotated[
        bool,
        msgspec.Meta(
            description="go on learning meanwhile; the weights that are looked at stay out until all is sampled, and "
            "the look is over before the next, a checkpoint or the end"
        ),
    ] = False


class AdvantageSpec(Spec[AdvantageEstimator], frozen=True, kw_only=True):
    kind: ClassVar[str] = "advantage"


class LossSpec(Spec[Loss], frozen=True, kw_only=True):
    """A loss's target is a plain function: `def hinge(batch, *, beta) -> LossValue`, its keywords named as options.

    whole_step: it compares groups with each other, so it must see all of a step at once and not micro-batch by
    micro-batch. by_completion: it looks at each completion by itself, so a large group may be cut. remembers: its
    target is a class made with the options, a function of batches that is a `Memory`, too.
    """

    kind: ClassVar[str] = "loss"
    whole_step: ClassVar[bool] = False
    by_completion: ClassVar[bool] = False
    remembers: ClassVar[bool] = False

    def build(self, run: Run) -> Loss:
        function = partial(self.implementation(), **msgspec.structs.asdict(self))
        memory = function() if self.remembers else None
        return DeclaredLoss(memory or function, self.requires(), self.whole_step, self.by_completion, memory)


class ControllerSpec(Spec[Controller], frozen=True, kw_only=True):
    """It requires what it measures of a batch that was learned from, and provides what estimators and losses heed."""

    kind: ClassVar[str] = "controller"


class OptimizerSpec(Spec[Optimizer], frozen=True, kw_only=True):
    kind: ClassVar[str] = "optimizer"


class ModelSpec(Spec[Model], frozen=True, kw_only=True):
    """planner: `module:attribute` of a function that tells what a phase will take before its weights are there; without
    one, `truing plan` says nothing of the model.

        planner(phase, batches, *, steps, per_epoch, looks, earlier) -> Estimate | None

    phase: its typed tables. batches: some of its steps as its source gives them. steps: how many it has, `per_epoch` of
    them until the data come round again. looks: groups that are looked at without learning. earlier: specs of the
    models of the phases before, by name. None: it cannot say.

    follower: a module for models that learn in several processes, all started by one launcher: the first calls
    `lead(rank, count, gpus)`, and `end(well)` of what that gives when the run is over; every other
    `follow(recipe, rank, count, gpus)`, whose result is its exit status. How many they are is in the recipe's
    `model.parallel.processes`.
    """

    kind: ClassVar[str] = "model"
    planner: ClassVar[str] = ""
    follower: ClassVar[str] = ""

    @property
    def processes(self) -> int:
        """In how many processes it learns."""
        return 1

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
        EnvironmentSpec,
        ScorerSpec,
        LookSpec,
        AdvantageSpec,
        LossSpec,
        ControllerSpec,
        OptimizerSpec,
        ModelSpec,
        ObserverSpec,
    )
}
