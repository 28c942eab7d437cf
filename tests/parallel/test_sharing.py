"""What a process holds of a model that several share, and checkpoints of which each writes its part."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.parallel.launching import Launched, metrics, run_folder, stop_at
from torch.distributed.tensor import DTensor

from truing_model.learner import Learner

Launch = Callable[..., Launched]
SHORT = ["--set", "source.size=32", "--set", "loop.epochs=1", "--set", "loop.checkpoint_every=2"]
SHARED = [*SHORT, "--set", "model.parallel.kind=fsdp"]


def held() -> int:
    """Bytes of all tensors of this process."""
    some = [each for each in gc.get_objects() if isinstance(each, torch.Tensor) and not isinstance(each, DTensor)]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in some if not each.is_meta}
    return sum(storages.values())


def test_weights_gradients_and_optimizer_of_a_process_are_its_share(launch: Launch, tmp_path: Path) -> None:
    def measure(rank: int) -> None:
        before, move = held(), Learner.move

        def moved(learner: Learner) -> float:
            rate = move(learner)
            (tmp_path / f"{learner.share.count}-{rank}").write_text(str(held() - before))
            return rate

        Learner.move = moved

    most: dict[int, int] = {}
    for count in (1, 2, 4):
        one_step = [*SHARED, "--set", "source.size=8", "--set", "holdout.size=1"]
        launched = launch(count, "sft", *one_step, runs=f"runs-{count}", before=measure)
        assert launched.ends() == [0] * count, launched.said
        most[count] = max(int((tmp_path / f"{count}-{rank}").read_text()) for rank in range(count))
    assert most[2] < 0.6 * most[1]
    assert most[4] < 0.6 * most[2]


@pytest.mark.skipif(not os.environ.get("TRUING_LAUNCHERS"), reason="set TRUING_LAUNCHERS=1: 34 million weights")
def test_the_peak_of_a_process_falls_with_their_number(launch: Launch, tmp_path: Path) -> None:
    shape = ["model.width=512", "model.layers=8", "model.heads=8", "model.dtype='fp32'", "model.micro_tokens=256"]
    options = [*SHARED, "--set", "source.size=16", "--set", "holdout.size=1"]
    options += [part for each in shape for part in ("--set", each)]

    def measure(rank: int) -> None:
        before = resident("VmRSS")
        begin, move = Learner.begin, Learner.move

        def begun(learner: Learner) -> None:
            # The weights were whole while they were loaded: the peak is that of the second step.
            Path("/proc/self/clear_refs").write_text("5")
            begin(learner)

        def moved(learner: Learner) -> float:
            rate = move(learner)
            (tmp_path / f"{learner.share.count}-{rank}").write_text(str(resident("VmHWM") - before))
            return rate

        Learner.begin, Learner.move = begun, moved

    peaks: dict[int, int] = {}
    for count in (1, 2, 4):
        launched = launch(count, "sft", *options, runs=f"runs-{count}", before=measure)
        assert launched.ends(600) == [0] * count, launched.said
        peaks[count] = max(int((tmp_path / f"{count}-{rank}").read_text()) for rank in range(count))
    print({count: f"{peak / 1e6:.0f} MB" for count, peak in peaks.items()})
    assert peaks[2] < 0.75 * peaks[1]
    assert peaks[4] < 0.85 * peaks[2]


def resident(which: str) -> int:
    """Bytes of this process in memory: now, or at its most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(which))


def test_what_four_processes_wrote_two_go_on_from_and_then_one(launch: Launch, tmp_path: Path) -> None:
    assert launch(1, "sft", *SHORT, runs="alone").ends() == [0]
    launched = launch(4, "sft", *SHARED, before=stop_at(1))
    assert launched.ends() == [130, 0, 0, 0], launched.said
    folder = run_folder(tmp_path / "runs")
    assert len(list(folder.glob("checkpoints/step-000001/weights-*-of-00004.safetensors"))) == 4
    for count, step in ((2, 2), (1, 0)):
        resume = ["resume", str(folder), "--quiet", "--processes", str(count)]
        again = Launched(tmp_path, count, resume, stop_at(step))
        assert again.ends() == [130 if step else 0, *[0] * (count - 1)], again.said
    expected, found = metrics(run_folder(tmp_path / "alone")), metrics(folder)
    assert found.keys() == expected.keys()
    assert all(found[step]["loss"] == pytest.approx(expected[step]["loss"], abs=1e-5) for step in expected)
