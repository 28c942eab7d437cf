"""What lets a process hold less, beside a share of the weights: it goes on elsewhere and comes to the same."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.parallel.launching import Launched, metrics, run_folder, stop_at

Launch = Callable[..., Launched]
SHORT = ["source.size=32", "loop.epochs=1", "loop.checkpoint_every=2", "model.micro_tokens=200"]
LORA = ["model.lora_rank=4", "optimizer.lr=0.01"]
needs_torchao = pytest.mark.skipif(
    find_spec("torchao") is None, reason="torchao is not installed: pip install 'truing[eight-bit]'"
)


@pytest.mark.parametrize(
    ("options", "near"),
    [
        pytest.param(["model.gradient_checkpointing=true"], 1e-5, id="checkpointed"),
        pytest.param([*LORA, "model.lora_dropout=0.2"], 1e-5, id="lora, which drops"),
        pytest.param([*LORA, "model.gradient_checkpointing=true"], 1e-5, id="both"),
        # What eight bits hold is cut into other blocks, and rounded once more by who goes on from it.
        pytest.param(["optimizer.bits=8"], 1e-2, id="eight bits", marks=needs_torchao),
    ],
)
def test_four_processes_begin_two_go_on_and_one_alone_comes_to_the_same(
    options: list[str], near: float, launch: Launch, tmp_path: Path
) -> None:
    told = [part for each in (*SHORT, *options) for part in ("--set", each)]
    assert launch(1, "sft", *told, runs="alone").ends() == [0]
    shared = launch(4, "sft", *told, "--set", "model.parallel.kind=fsdp", before=stop_at(2))
    assert shared.ends() == [130, 0, 0, 0], shared.said
    folder = run_folder(tmp_path / "runs")
    resumed = Launched(tmp_path, 2, ["resume", str(folder), "--quiet", "--processes", "2"])
    assert resumed.ends() == [0, 0], resumed.said
    expected, found = metrics(run_folder(tmp_path / "alone")), metrics(folder)
    assert found.keys() == expected.keys()
    assert all(found[step]["loss"] == pytest.approx(expected[step]["loss"], rel=near, abs=near) for step in expected)
    (one,), (other,) = (list(each.rglob("model/model.safetensors")) for each in (tmp_path / "alone", folder))
    weights, others = load_file(one), load_file(other)
    assert weights.keys() == others.keys()
    assert all((weights[key] - others[key]).norm() <= 100 * near * weights[key].norm() for key in weights)
