"""What a model learns in several processes is what it learns in one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.parallel.launching import Launched, metrics, run_folder

Launch = Callable[..., Launched]

SHORT = {
    "sft": ["source.size=32", "loop.epochs=1", "model.micro_tokens=200"],
    "reward": ["phase.sft.loop.steps=2", "phase.reward.loop.epochs=1", "phase.reward.source.size=32"],
    "dpo": ["source.size=32", "loop.epochs=1"],
    "aot": ["model.layout='plain'", "loop.batch=4", "source.size=16", "loop.epochs=1"],
    "grpo": ["phase.sft.loop.epochs=2", "phase.rl.loop.steps=4"],
}
"""Recipes made shorter: pieces so small that every process has several of a step, or groups so few that some have none;
a completion at a time, and a loss that must see them all."""


def options(name: str, kind: str) -> list[str]:
    """A short recipe, all of whose phases share in this way."""
    phases = {"reward": ["phase.sft.", "phase.reward."], "grpo": ["phase.sft.", "phase.rl."]}.get(name, [""])
    told = [*SHORT[name], *(f"{phase}model.parallel.kind={kind}" for phase in phases)]
    return [part for each in told for part in ("--set", each)]


@pytest.mark.parametrize("name", SHORT)
def test_what_is_learned_is_the_same_in_one_process_and_in_several(name: str, launch: Launch, tmp_path: Path) -> None:
    several = ((3, "fsdp"),) if name == "aot" else ((2, "fsdp"), (4, "ddp"))
    for count, kind in ((1, "ddp"), *several):
        launched = launch(count, name, *options(name, kind), runs=f"{count}")
        assert launched.ends() == [0] * count, launched.said
    expected = metrics(run_folder(tmp_path / "1"))
    assert len(expected) >= 4
    for count, _ in several:
        found = metrics(run_folder(tmp_path / f"{count}"))
        assert found.keys() == expected.keys()
        for step, numbers in expected.items():
            assert found[step] == pytest.approx(numbers, rel=1e-3, abs=1e-4), (count, step)
            if "loss" in numbers:
                assert found[step]["loss"] == pytest.approx(numbers["loss"], rel=1e-5, abs=1e-5), (count, step)
        one, other = (next((run_folder(tmp_path / f"{n}")).rglob("model/model.safetensors")) for n in (1, count))
        weights, others = load_file(one), load_file(other)
        assert weights.keys() == others.keys()
        # Where a gradient is all rounding, Adam makes steps of it.
        assert all((weights[key] - others[key]).norm() <= 1e-3 * weights[key].norm() for key in weights)


def test_processes_find_each_other_whatever_the_number_of_the_first_is(launch: Launch) -> None:
    def numbered(rank: int) -> None:
        os.getpid = lambda: 0x10000 * (rank + 1)  # whose bytes end in zeros, as those of one in 256 do

    short = [part for each in ("source.size=16", "loop.epochs=1") for part in ("--set", each)]
    launched = launch(2, "sft", *short, before=numbered)
    assert launched.ends() == [0, 0], launched.said
