"""Toys that an online run is made of, for whoever tests the loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from truing.bus import Bus
from truing.errors import RunFailed
from truing.events import Event, GroupDropped, GroupFailed, GroupTrained, GroupWritten, WaveAdmitted
from truing.fields import (
    COMPLETIONS,
    FINISH,
    GROUP,
    IDS,
    LOGPROBS,
    SCORES,
    SEQ,
    TOKENS,
    VERSION,
    Batch,
    fields,
)
from truing.groups import part
from truing.journal import PhaseFolder
from truing.loop import Parts
from truing.online import online
from truing.recipe import Loop
from truing.run import DeviceThread, Run, Stop
from truing.stage import Encoded, Weights
from truing.testing import (
    ToyLossSpec,
    ToyModel,
    ToyModelSpec,
    ToyOptimizer,
    ToyOptimizerSpec,
    ToySource,
    ToySourceSpec,
)


class Prompted(ToyModel):
    """A toy model that is handed prompts alone."""

    def encode(self, batch: Batch) -> Encoded:
        assert batch[COMPLETIONS] == [] == list(batch[GROUP])
        return Encoded(batch)


class Writer:
    """Writes two completions a prompt, some of them slowly, and keeps what it was asked under which version."""

    def __init__(self, delays: list[float] | None = None, fail_at: int = 0) -> None:
        self.delays = delays or [0.0]
        self.fail_at = fail_at
        self.asked: list[tuple[int, list[str]]] = []
        self.synced: list[int] = []

    async def sync_weights(self, weights: Weights) -> None:
        self.synced.append(weights.version)

    async def generate(self, batch: Batch) -> Batch:
        version = self.synced[-1]
        self.asked.append((version, list(batch[IDS])))
        await anyio.sleep(self.delays[len(self.asked) % len(self.delays)])
        if len(self.asked) == self.fail_at:
            raise RunFailed("the writer broke")
        return self.written(batch, version)

    def written(self, batch: Batch, version: int) -> Batch:
        """Two completions for each prompt, by the weights of this version."""
        count = 2 * len(batch[IDS])
        texts = {COMPLETIONS: ["abc"] * count, TOKENS: [0] * 3 * count, SEQ: [at // 3 for at in range(3 * count)]}
        facts = {FINISH: ["end", "length"] * (count // 2), VERSION: [version] * count}
        return batch.put_all({**texts, **facts, GROUP: [at // 2 for at in range(count)]})


class Grader:
    """Scores 0 and 1 in turn."""

    async def score(self, batch: Batch) -> Batch:
        return batch.put(SCORES, [float(at % 2) for at in range(len(batch[COMPLETIONS]))])  # pyright: ignore


class Picky:
    """Leaves out the groups of some prompts."""

    def __init__(self, *without: str) -> None:
        self.without = without

    def estimate(self, batch: Batch) -> Batch:
        kept = [at for at, name in enumerate(batch[IDS]) if name not in self.without]
        return part(batch, kept)


def ends(events: list[Event]) -> dict[tuple[int, str], str]:
    """How each group of each wave ended, every one of them exactly once. A wave that is admitted again begins anew."""
    found: dict[tuple[int, str], list[str]] = {}
    for event in events:
        match event:
            case WaveAdmitted():
                found |= {(event.wave, name): [] for name in event.ids}
            case GroupTrained() | GroupWritten():
                for name in event.ids:
                    found[event.wave, name].append("kept")
            case GroupDropped() if event.wave:
                found[event.wave, event.id].append("dropped")
            case GroupFailed() if event.wave:
                found[event.wave, event.id].append("failed")
            case _:
                pass
    wrong = {key: several for key, several in found.items() if len(several) != 1}
    assert not wrong, f"these did not end exactly once: {wrong}"
    return {key: several[0] for key, several in found.items()}


class Scene:
    """An online run of toys in a folder of its own."""

    def __init__(
        self, folder: Path, writer: Writer, stop: Stop | None = None, resumed: bool = False, **options: Any
    ) -> None:
        self.events: list[Event] = []
        self.took = 0.0
        self.stop = Stop() if stop is None else stop
        self.run = Run(
            "toy",
            folder,
            0,
            Bus(keep=self.events.append),
            "phase",
            stop=self.stop,
            resumed=resumed,
            script=options.pop("script", None),
        )
        self.model = Prompted(ToyModelSpec(seconds=options.pop("seconds", 0.0)), self.run)
        self.writer = writer
        self.folder = PhaseFolder(folder / "phase")
        groups = options.pop("groups", 8)
        self.parts = Parts(
            source=ToySource(ToySourceSpec(groups=groups), self.run),
            model=self.model,
            optimizer=ToyOptimizer(ToyOptimizerSpec(), self.run),
            loss=ToyLossSpec().build(self.run),
            needs=fields(LOGPROBS),
            holdout=ToySource(ToySourceSpec(groups=3), self.run) if options.pop("holdout", False) else None,
            generator=writer,
            scorer=options.pop("scorer", Grader()),
            advantage=options.pop("advantage", None),
            look=options.pop("look", None),
            beside=options.pop("beside", False),
        )
        self.loop = Loop(**{"batch": 2, **options})

    def use(self, device: DeviceThread) -> None:
        """Do all arithmetic on this device."""
        self.run = replace(self.run, device=device)

    def go(self) -> Scene:
        async def whole() -> None:
            with anyio.fail_after(30):
                try:
                    await online(self.parts, self.loop, self.run, self.folder)
                finally:
                    self.run.bus.close()

        anyio.run(whole)
        return self

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]
