"""The menu of components that work in a process of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from msgspec import Meta

from truing.plugins import hookimpl
from truing.stage import AnySpec, Fault, GeneratorSpec, within
from truing_remote.around import Around


class Process(Around, GeneratorSpec, frozen=True, kw_only=True):
    """A generator in a process of its own, so that sampling and learning share neither an interpreter nor threads.

    Weights go there through memory that both processes see: two copies of them, one that is read and one that is
    written. The same seeds give the same samples as in this process. A process that dies is started again with the
    newest weights and asked again for what it had not answered. It ends with its phase, and with this process, however
    that ends.

    Written as `[generator.generator] use = "engine"`.
    """

    name: ClassVar[str] = "process"
    target: ClassVar[str] = "truing_workers.process:Process"
    shares_device: ClassVar[bool] = False
    shared_copies: ClassVar[int] = 2
    """of the weights, in memory that both processes see"""

    generator: Annotated[GeneratorSpec, Meta(description="what samples there")]
    threads: Annotated[
        int, Meta(ge=0, description="threads that its arithmetic takes; 0: as many as that of this process")
    ] = 0
    cores: Annotated[
        list[Annotated[int, Meta(ge=0)]], Meta(description="processor cores it keeps to; none: those of this process")
    ] = []
    gpus: Annotated[
        list[Annotated[int, Meta(ge=0)]],
        Meta(description="GPUs it sees, by the numbers of CUDA_VISIBLE_DEVICES; none: those of this process"),
    ] = []
    restarts: Annotated[
        int, Meta(ge=0, description="how often its process is started again in a phase; dying once more ends the run")
    ] = 8
    start_seconds: Annotated[
        float, Meta(gt=0, description="longest time in which a process that is started must be ready")
    ] = 300.0

    def problems(self) -> Iterator[Fault]:
        """A process inside of a process, and places where nothing can run."""
        if any(isinstance(inner, Process) for _, inner in within(self.generator)):
            yield Fault("generator", "a process inside of a process", "name there what samples, and no other process")
        if self.cores and self.threads > len(self.cores):
            what = f"{self.threads} threads would take turns on the cores {self.cores}"
            yield Fault("threads", what, f"set threads = {len(self.cores)}, or name more cores")
        if self.gpus and getattr(self.generator, "device", "") == "cpu":
            yield Fault("gpus", "what samples there stays on the CPU", 'leave gpus out, or set device = "cuda" in it')


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Components in processes of their own."""
    return [Process]
