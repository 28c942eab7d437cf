"""One side of the comparison: truing's own components on the workload, timed step by step, one line of JSON.

Started by `compare` as a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import torch

from truing.bus import Bus
from truing.cli.running import in_one_heap
from truing.fields import (
    COMPLETIONS,
    GROUP,
    LABEL,
    LOGPROBS_REF,
    MISMATCHED,
    PROMPT_GROUP,
    SCORES,
    SEQ,
    TOKENS,
    Batch,
    Fields,
    Group,
    fields,
)
from truing.run import Run
from truing_generate.plugin import Engine
from truing_model.plugin import AdamW, CausalLm, RewardModel
from truing_policy.plugin import GroupRelative, Grpo, Sft
from truing_preference.plugin import Dpo, Kto
from truing_reward.menu_losses import BradleyTerry
from truing_tensor.groups import batch_of

LOSSES: dict[str, Any] = {
    "dpo": Dpo(),
    "sft": Sft(),
    "reward": BradleyTerry(),
    "kto": Kto(),
    "grpo": Grpo(mean="token"),
    "generate": Grpo(),
}
FILES = {"dpo": "pairs", "sft": "sft", "reward": "pairs", "kto": "unpaired", "grpo": "prompts", "generate": "prompts"}
SAMPLES, NEW_TOKENS = 8, 64


def main() -> None:
    """Take the warm-up and the steps that count, and print what was seen."""
    options = argparse.ArgumentParser()
    options.add_argument("--task", choices=sorted(LOSSES), required=True)
    options.add_argument("--folder", type=Path, required=True, help="the workload: data, model and tokenizer")
    options.add_argument("--steps", type=int, required=True)
    options.add_argument("--warmup", type=int, default=2)
    options.add_argument("--batch", type=int, required=True)
    options.add_argument("--reference-known", action="store_true", help="leave the reference's forward pass out")
    given = options.parse_args()
    torch.set_num_threads(2)
    # As `truing run` does.
    in_one_heap()
    online = given.task in ("grpo", "generate")
    seen = anyio.run(partial(generated if online else learned, given))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({**seen, "peak_rss_mb": peak}))


async def learned(given: argparse.Namespace) -> dict[str, float]:
    """Steps on data that exists."""
    run = runs(given)
    # All of it in the thread of the device, as in a run.
    return await run.on_device(learned_there, given, run)


def learned_there(given: argparse.Namespace, run: Run) -> dict[str, float]:
    model, loss, needs = built(given, run)
    groups = list(read(given.folder / "data", given.task))
    tokens, seconds = 0, 0.0
    for step in range(given.warmup + given.steps):
        batch = model.encode(batch_of(groups[step * given.batch : (step + 1) * given.batch])).batch
        began = time.perf_counter()
        batch = model.annotate(batch, needs)
        if given.reference_known:
            began = time.perf_counter()
        model.learn(batch, loss)
        if step >= given.warmup:
            seconds += time.perf_counter() - began
            tokens += logical_tokens(batch)
    return {"tokens_per_s": tokens / seconds}


async def generated(given: argparse.Namespace) -> dict[str, float]:
    """Steps on what the model writes: generate, score, estimate, learn."""
    run = runs(given)
    model, loss, _ = await run.on_device(built, given, run)
    engine = Engine(samples=SAMPLES, max_new_tokens=NEW_TOKENS, dtype="fp32", device="cpu").build(run)
    advantage = GroupRelative().build(run)
    reward: Callable[[str], float] = scoring(given.folder)
    groups = list(read(given.folder / "data", given.task))
    parts = {"generate": 0.0, "train": 0.0}
    tokens = new = 0
    for step in range(given.warmup + given.steps):
        batch = model.encode(batch_of(groups[step * given.batch : (step + 1) * given.batch])).batch
        began = time.perf_counter()
        await engine.sync_weights(model.weights())
        batch = await engine.generate(batch)
        written = time.perf_counter()
        if given.task == "grpo":
            scores = torch.tensor([reward(str(text)) for text in batch[COMPLETIONS]])
            await run.on_device(model.learn, advantage.estimate(batch.put(SCORES, scores)), loss)
        if step >= given.warmup:
            parts["generate"] += written - began
            parts["train"] += time.perf_counter() - written
            tokens += logical_tokens(batch)
            new += len(batch[TOKENS])
    steps = {f"{name}_s_per_step": seconds / given.steps for name, seconds in parts.items()}
    return {"tokens_per_s": tokens / sum(parts.values()), "new_tokens_per_s": new / parts["generate"], **steps}


def runs(given: argparse.Namespace) -> Run:
    return Run("bench", given.folder / "truing", 0, Bus(), wanted=LOSSES[given.task].requires())


def built(given: argparse.Namespace, run: Run) -> tuple[Any, Any, Fields]:
    """The model that learns, its loss, and what the model must add to a batch for it."""
    spec = LOSSES[given.task]
    needs = spec.requires() & fields(LOGPROBS_REF)
    kind = RewardModel if given.task == "reward" else CausalLm
    model = kind(path=str(given.folder / "small_model"), dtype="fp32", device="cpu", max_tokens=2048).build(run)
    model.attach(AdamW(lr=1e-6).build(run), given.steps + given.warmup)
    return model, spec.build(run), needs


def read(data: Path, task: str) -> Iterator[Group]:
    """The workload's rows as groups, of the same texts as the other side reads."""
    rows = [json.loads(line) for line in (data / f"{FILES[task]}.jsonl").read_text(encoding="utf-8").splitlines()]
    for at, row in enumerate(rows):
        name = str(row["id"])
        if "chosen" in row:
            yield Group(id=name, prompt=row["prompt"], completions=[row["chosen"], row["rejected"]], pairs=[(0, 1)])
        elif "label" in row:
            # What the other side does for its KL estimate: the completion of the next row behind this prompt.
            other = rows[(at + 1) % len(rows)]["completion"]
            extra = {LABEL: [int(row["label"]), 0], MISMATCHED: [0, 1]}
            yield Group(id=name, prompt=row["prompt"], completions=[row["completion"], other], extra=extra)
        elif "text" in row:
            # A language model learns a text from its second word on: the first is what there is to go by.
            first, _, rest = row["text"].partition(" ")
            yield Group(id=name, prompt=first, completions=[" " + rest])
        else:
            yield Group(id=name, prompt=row["prompt"], completions=["-"])


def scoring(folder: Path) -> Callable[[str], float]:
    """The workload's own reward."""
    sys.path.insert(0, str(folder / "scripts"))
    from workload import reward_words

    return reward_words


def logical_tokens(batch: Batch) -> int:
    """Tokens as the other side counts them: a prompt once for each of its completions, no padding; of completions that
    are there for an estimate alone, none."""
    prompts = torch.bincount(batch[PROMPT_GROUP])
    answers = torch.bincount(batch[SEQ], minlength=len(batch[GROUP]))
    counted = 1 - batch[MISMATCHED] if MISMATCHED in batch else torch.ones_like(batch[GROUP])
    return int(((prompts[batch[GROUP]] + answers) * counted).sum())


if __name__ == "__main__":
    main()
