"""The menu of components that work in actors of Ray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from msgspec import Meta

from truing.plugins import hookimpl
from truing.stage import AnySpec, Fault, GeneratorSpec, ScorerSpec, within
from truing_remote.around import Around


class Placed(Around, frozen=True, kw_only=True):
    """Where actors are placed, and what becomes of one that dies."""

    actors: Annotated[int, Meta(ge=1, description="how many; the prompts of a batch are shared among them")] = 1
    cpus: Annotated[float, Meta(ge=0, description="processor cores that each takes, and threads of its arithmetic")] = 1
    gpus: Annotated[float, Meta(ge=0, description="GPUs that each takes; less than 1 shares one")] = 0
    resources: Annotated[
        dict[str, float], Meta(description="other resources of the cluster that each takes, by their names")
    ] = {}
    address: Annotated[
        str,
        Meta(
            description='of the cluster; "": that of RAY_ADDRESS, and without it one of this machine alone is started'
        ),
    ] = ""
    restarts: Annotated[
        int, Meta(ge=0, description="how often an actor is started again in a phase; dying once more ends the run")
    ] = 8
    start_seconds: Annotated[
        float, Meta(gt=0, description="longest time in which an actor must be placed, started and ready")
    ] = 300.0

    def problems(self) -> Iterator[Fault]:
        """Actors inside of actors, and GPUs that nobody uses."""
        if any(isinstance(inner, Placed) for _, inner in within(self.inside)):
            yield Fault(self.kind, "actors inside of an actor", "name there what works, and no other actors")
        if self.gpus and getattr(self.inside, "device", "") == "cpu":
            yield Fault("gpus", "what works there stays on the CPU", 'leave gpus out, or set device = "cuda" in it')


class RayGenerator(Placed, GeneratorSpec, frozen=True, kw_only=True):
    """A generator in actors of Ray: each samples some of the prompts of a batch.

    Weights go there through Ray's object store as safetensors, once for all actors. The same seeds give the same
    samples as in this process, however many actors there are. One that dies is started again with the newest weights
    and asked again for what it had not answered. They end with their phase, and with this process.

    Written as `[generator.generator] use = "engine"`.
    """

    name: ClassVar[str] = "ray"
    target: ClassVar[str] = "truing_ray.stages:RayGenerator"

    generator: Annotated[GeneratorSpec, Meta(description="what samples there")]


class RayScorer(Placed, ScorerSpec, frozen=True, kw_only=True):
    """A scorer in actors of Ray: each scores some of the groups of a batch.

    Written as `[scorer.scorer] use = "reward-model"`.
    """

    name: ClassVar[str] = "ray"
    target: ClassVar[str] = "truing_ray.stages:RayScorer"

    scorer: Annotated[ScorerSpec, Meta(description="what scores there")]

    def unit(self) -> str:
        """That of the scorer inside."""
        return self.scorer.unit()


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Components in actors of Ray."""
    return [RayGenerator, RayScorer]
