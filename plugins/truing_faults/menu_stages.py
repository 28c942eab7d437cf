"""The menu of stages that fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import Fields
from truing.stage import EnvironmentSpec, Fault, GeneratorSpec, ObserverSpec, ScorerSpec, SourceSpec
from truing_faults.menu import Chances, Spoils


class FaultySource(Spoils, SourceSpec, frozen=True, kw_only=True):
    """A source whose batches now and then come late, never, or wrong. It opens as it is.

    Written as `[source.source] use = "..."`.
    """

    name: ClassVar[str] = "faulty"
    target: ClassVar[str] = "truing_faults.stages:FaultySource"

    source: Annotated[SourceSpec, Meta(description="what reads")]

    def insists(self) -> Fields:
        """What the source inside insists on."""
        return self.source.insists()

    def reads(self) -> Fields:
        """What the source inside reads of an earlier phase."""
        return self.source.reads()


class FaultyGenerator(Spoils, GeneratorSpec, frozen=True, kw_only=True):
    """A generator that now and then fails.

    Around `process` it kills the run itself; inside of it, the process.

    Written as `[generator.generator] use = "engine"`.
    """

    name: ClassVar[str] = "faulty"
    target: ClassVar[str] = "truing_faults.stages:FaultyGenerator"

    generator: Annotated[GeneratorSpec, Meta(description="what samples")]
    weights: Annotated[
        bool, Meta(description="to take new weights is a call, too; what raises or hangs there ends the run")
    ] = False


class FaultyScorer(Spoils, ScorerSpec, frozen=True, kw_only=True):
    """A scorer that now and then fails.

    Written as `[scorer.scorer] use = "match"`.
    """

    name: ClassVar[str] = "faulty"
    target: ClassVar[str] = "truing_faults.stages:FaultyScorer"

    scorer: Annotated[ScorerSpec, Meta(description="what scores")]

    def unit(self) -> str:
        """That of the scorer inside."""
        return self.scorer.unit()


class FaultyEnvironment(Spoils, EnvironmentSpec, frozen=True, kw_only=True):
    """An environment that now and then fails, when a rollout begins or a turn is answered.

    Written as `[generator.environment.environment] use = "calculator"`.
    """

    name: ClassVar[str] = "faulty"
    target: ClassVar[str] = "truing_faults.stages:FaultyEnvironment"

    environment: Annotated[EnvironmentSpec, Meta(description="what answers")]

    def stops(self) -> Sequence[str]:
        """Those of the environment inside."""
        return self.environment.stops()


class FaultyObserver(Chances, ObserverSpec, frozen=True, kw_only=True):
    """An observer that now and then fails at an event. It opens and closes as it is.

    Written as `[observer.observer] use = "mlflow"`.
    """

    name: ClassVar[str] = "faulty"
    target: ClassVar[str] = "truing_faults.stages:FaultyObserver"

    observer: Annotated[ObserverSpec, Meta(description="what watches")]

    def problems(self) -> Iterator[Fault]:
        """What is sent elsewhere later, too."""
        yield from super().problems()
        if self.observer.remote:
            what = f'"{self.observer.name}" sends elsewhere, and `truing track` would not find it in here'
            yield Fault("observer", what, "take another observer, or put a faulty-server between")
