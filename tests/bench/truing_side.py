"""One side of the comparison: truing's own components on the workload, timed step by step, one line of JSON.

Started by `compare` as a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from truing.bus import Bus
from truing.fields import GROUP, LOGPROBS_REF, PROMPT_GROUP, TOKENS, Batch, Group, fields
from truing.run import Run
from truing_model.plugin import AdamW, CausalLm
from truing_policy.plugin import Sft
from truing_preference.plugin import Dpo
from truing_tensor.groups import batch_of

NEEDS = {"dpo": fields(LOGPROBS_REF), "sft": fields()}


def main() -> None:
    """Train for the warm-up and the steps that count, and print what was seen."""
    options = argparse.ArgumentParser()
    options.add_argument("--task", choices=sorted(NEEDS), required=True)
    options.add_argument("--folder", type=Path, required=True, help="the workload: data, model and tokenizer")
    options.add_argument("--steps", type=int, required=True)
    options.add_argument("--warmup", type=int, default=2)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--reference-known", action="store_true", help="leave the reference's forward pass out")
    given = options.parse_args()
    torch.set_num_threads(2)
    run = Run("bench", given.folder / "truing", 0, Bus(), wanted=NEEDS[given.task])
    spec = CausalLm(path=str(given.folder / "small_model"), dtype="fp32", device="cpu", max_tokens=2048)
    model: Any = spec.build(run)
    loss = (Dpo() if given.task == "dpo" else Sft()).build(run)
    model.attach(AdamW(lr=1e-6).build(run), given.steps + given.warmup)
    groups = list(read(given.folder / "data", given.task))
    tokens, seconds = 0, []
    for step in range(given.warmup + given.steps):
        batch = model.encode(batch_of(groups[step * given.batch : (step + 1) * given.batch])).batch
        began = time.perf_counter()
        batch = model.annotate(batch, run.wanted)
        if given.reference_known:
            began = time.perf_counter()
        model.learn(batch, loss)
        if step >= given.warmup:
            seconds.append(time.perf_counter() - began)
            tokens += logical_tokens(batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"tokens_per_s": tokens / sum(seconds), "peak_rss_mb": peak, "steps": seconds}))


def read(data: Path, task: str) -> list[Group]:
    """The workload's rows as groups, of the same texts as the other side reads."""
    file = data / ("pairs.jsonl" if task == "dpo" else "sft.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if task == "dpo":
        pairs = [[row["chosen"], row["rejected"]] for row in rows]
        return [
            Group(id=row["id"], prompt=row["prompt"], completions=list(texts), pairs=[(0, 1)])
            for row, texts in zip(rows, pairs, strict=True)
        ]
    # A language model learns a text from its second word on: the first is what there is to go by.
    halves = [row["text"].partition(" ") for row in rows]
    return [
        Group(id=row["id"], prompt=first, completions=[" " + rest])
        for row, (first, _, rest) in zip(rows, halves, strict=True)
    ]


def logical_tokens(batch: Batch) -> int:
    """Tokens as the other side counts them: a prompt once for each of its completions, no padding."""
    prompts = torch.bincount(batch[PROMPT_GROUP])
    return len(batch[TOKENS]) + int(prompts[batch[GROUP]].sum())


if __name__ == "__main__":
    sys.exit(main())
