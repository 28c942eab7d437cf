"""Against a real vLLM server, if there is one. To run it, start a server in development mode beside its model,

    VLLM_SERVER_DEV_MODE=1 python -m vllm.entrypoints.openai.api_server --model FOLDER --dtype float32 \
        --max-model-len 512 --max-num-batched-tokens 16384 --generation-config vllm

and name it: TRUING_VLLM_URL=http://127.0.0.1:8000. FOLDER holds a causal language model that transformers loads here,
too; its weights on the server are changed and put back. On a CPU it must not tie its embeddings: vLLM 0.32 keeps the
head of one that does. Of a server started with --logprobs-mode processed_logprobs, say so:
TRUING_VLLM_LOGPROBS=processed_logprobs.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import anyio
import pytest
import torch
from torch import Tensor

from truing.events import StepDone
from truing.fields import (
    FINISH,
    GROUP,
    IDS,
    LOGPROBS_OLD,
    LOGPROBS_SAMPLED,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SEQ,
    TOKENS,
    VERSION,
    Batch,
)
from truing.testing import recipe, run_recipe
from truing_generate.plugin import OpenAi

from .conftest import Told

URL = os.environ.get("TRUING_VLLM_URL", "")
MODE: Any = os.environ.get("TRUING_VLLM_LOGPROBS", "raw_logprobs")
CLOSE = 2e-3
PATTERN = r"^\s*\d"
"""what is rewarded: an answer that begins with its number; SmolLM2-135M-Instruct rather begins with a sentence"""

pytestmark = pytest.mark.skipif(not URL, reason="TRUING_VLLM_URL names no vLLM server; the file says how to start one")


class Held:
    """The weights of a model that is in memory."""

    def __init__(self, model: Any, version: int) -> None:
        self.model, self.version, self.origin = model, version, ""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.model.state_dict().items()


@pytest.fixture(scope="module")
def model() -> Any:
    """The model that the server has."""
    from transformers import AutoModelForCausalLM

    with urllib.request.urlopen(f"{URL}/v1/models", timeout=10) as answer:
        folder = json.load(answer)["data"][0]["root"]
    if not Path(folder).is_dir():
        pytest.skip(f"the server's model is {folder}, which is no folder here")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def prompts(*lengths: int) -> Batch:
    return Batch(
        {
            IDS: [f"p{at}" for at in range(len(lengths))],
            PROMPTS: ["?"] * len(lengths),
            PROMPT_TOKENS: torch.cat([torch.arange(10, 10 + length) for length in lengths]),
            PROMPT_GROUP: torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        }
    )


def scored(model: Any, batch: Batch, temperature: float = 1.0, top_k: int = 0) -> Tensor:
    """The log-probability of every token of the completions, under the model or what is sampled from it."""
    found = []
    for seq, group in enumerate(batch[GROUP].tolist()):
        head, tail = batch[PROMPT_TOKENS][batch[PROMPT_GROUP] == group], batch[TOKENS][batch[SEQ] == seq]
        with torch.no_grad():
            logits = model(torch.cat([head, tail])[None]).logits[0, len(head) - 1 : -1] / temperature
        if top_k:
            logits = logits.where(logits >= logits.topk(top_k).values[:, -1:], -torch.inf)
        found.append(logits.log_softmax(-1).gather(1, tail[:, None])[:, 0])
    return torch.cat(found)


def test_log_probabilities_are_those_of_the_model(model: Any, told: Told) -> None:
    generator = OpenAi(url=URL, samples=4, max_new_tokens=24).build(told.run)
    batch = anyio.run(generator.generate, prompts(3, 1, 7))
    assert batch[GROUP].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert set(batch[FINISH]) <= {"end", "length"}
    assert torch.allclose(batch[LOGPROBS_OLD], scored(model, batch), atol=CLOSE)
    assert torch.equal(batch[LOGPROBS_OLD], batch[LOGPROBS_SAMPLED])


@pytest.mark.skipif(MODE != "raw_logprobs", reason="the server was started in another mode")
def test_raw_log_probabilities_are_those_of_the_model_at_any_temperature(model: Any, told: Told) -> None:
    generator = OpenAi(url=URL, samples=2, max_new_tokens=16, temperature=0.5, top_k=20).build(told.run)
    batch = anyio.run(generator.generate, prompts(4, 2))
    assert LOGPROBS_SAMPLED not in batch
    assert torch.allclose(batch[LOGPROBS_OLD], scored(model, batch), atol=CLOSE)


@pytest.mark.skipif(MODE != "processed_logprobs", reason="TRUING_VLLM_LOGPROBS does not say processed_logprobs")
@pytest.mark.parametrize("top_k", [0, 20])
def test_processed_log_probabilities_are_those_of_the_sampling_distribution(model: Any, told: Told, top_k: int) -> None:
    spec = OpenAi(url=URL, samples=4, max_new_tokens=16, temperature=0.5, top_k=top_k, logprobs=MODE)
    batch = anyio.run(spec.build(told.run).generate, prompts(4, 2))
    assert LOGPROBS_OLD not in batch
    assert torch.allclose(batch[LOGPROBS_SAMPLED], scored(model, batch, 0.5, top_k), atol=CLOSE)


def test_the_same_seeds_give_the_same_samples_whatever_is_asked_beside(model: Any, told: Told, tmp_path: Path) -> None:
    spec = OpenAi(url=URL, samples=3, max_new_tokens=16)
    whole = anyio.run(spec.build(told.run).generate, prompts(3, 5, 2))
    alone = anyio.run(spec.build(Told(tmp_path).run).generate, prompts(3))
    mine = whole[SEQ] < 3
    assert torch.equal(whole[TOKENS][mine], alone[TOKENS])


def test_a_server_samples_from_the_weights_it_was_sent(model: Any, told: Told) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    other = AutoModelForCausalLM.from_config(model.config).to(torch.float32).eval()
    spec = OpenAi(url=URL, samples=4, max_new_tokens=24, sync="vllm-disk")
    generator = spec.build(told.run)

    async def rounds() -> Batch:
        await generator.generate(prompts(20, 3))
        await generator.sync_weights(Held(other, 1))
        try:
            return await generator.generate(prompts(20, 3))
        finally:
            await generator.sync_weights(Held(model, 2))

    changed = anyio.run(rounds)
    assert changed[VERSION].tolist() == [1] * 8
    assert torch.allclose(changed[LOGPROBS_OLD], scored(other, changed), atol=CLOSE)
    assert not torch.allclose(changed[LOGPROBS_OLD], scored(model, changed), atol=0.1)
    again = anyio.run(generator.generate, prompts(20, 3))
    assert again[VERSION].tolist() == [2] * 8
    assert torch.allclose(again[LOGPROBS_OLD], scored(model, again), atol=CLOSE)


def running() -> float:
    """How many requests the server works on."""
    with urllib.request.urlopen(f"{URL}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))


def test_weights_may_change_while_samples_are_written(model: Any, told: Told) -> None:
    spec = OpenAi(url=URL, samples=8, max_new_tokens=400, sync="vllm-disk", concurrency=4)
    generator = spec.build(told.run)
    made: list[Batch] = []

    async def both() -> None:
        written = await generator.write(Held(model, 1))
        async with anyio.create_task_group() as tasks:

            async def generate() -> None:
                made.append(await generator.generate(prompts(2, 2)))

            tasks.start_soon(generate)
            # Twelve of the sixteen wait for a place meanwhile.
            while not await anyio.to_thread.run_sync(running):
                await anyio.sleep(0.01)
            await generator.read(written, 1)

    anyio.run(both)
    assert torch.allclose(made[0][LOGPROBS_OLD], scored(model, made[0]), atol=CLOSE)
    assert set(made[0][VERSION].tolist()) == {0, 1}


RUN = """
name = "against-a-server"
[source]
use = "reasoning-gym"
tasks = ["basic_arithmetic"]
size = 64
[model]
use = "causal-lm"
path = "{folder}"
dtype = "fp32"
device = "cpu"
lora_rank = 16
[optimizer]
use = "adamw"
lr = 1e-3
schedule = "constant"
[loss]
use = "grpo"
[generator]
use = "openai"
url = "{url}"
sync = "vllm-disk"
samples = 8
max_new_tokens = 10
[scorer]
use = "regex"
pattern = '{pattern}'
[advantage]
use = "group-relative"
[loop]
batch = 4
steps = 8
"""


def test_a_run_learns_from_what_the_server_samples_of_its_newest_weights(model: Any, tmp_path: Path) -> None:
    text = RUN.format(folder=model.name_or_path, url=URL, pattern=PATTERN)
    steps = [event.metrics for event in run_recipe(recipe(text), tmp_path).events if isinstance(event, StepDone)]
    for metrics in steps:
        print(
            {name: round(metrics[name], 6) for name in ("score", "kl/old", "ratio", "gradient_norm", "sample/length")}
        )
    # What the server said of its samples is what the model says of them, version after version.
    assert len(steps) == 8
    assert all(metrics["sample/staleness"] == 0 and metrics["kl/old"] < 1e-4 for metrics in steps)
    assert 0.02 < steps[0]["score"] < 0.9
    assert fmean(metrics["score"] for metrics in steps[-2:]) > fmean(metrics["score"] for metrics in steps[:2]) + 0.15
