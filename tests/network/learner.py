"""A run that samples from servers, and what it came to.

python -m tests.network.learner FOLDER STEPS URL...

One URL after `alone` is that of a generator which knows no other server.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.kernel.scenes import ends

from truing.events import GroupTrained, Notice, StepDone
from truing.testing import recipe, run_recipe

RECIPE = """
name = "far"
[source]
use = "reasoning-gym"
tasks = ["basic_arithmetic"]
size = 60
[generator]
{server}
samples = 2
max_new_tokens = 6
concurrency = 4
sync = "vllm-disk"
[scorer]
use = "match"
close = true
[advantage]
use = "group-relative"
[model]
use = "scratch-lm"
[optimizer]
use = "adamw"
[loss]
use = "grpo"
[loop]
batch = 4
steps = {steps}
staleness = 1
"""


POOL = 'use = "openai-pool"\nretries = 1\ncheck_seconds = 0.2\nurls = '
ALONE = 'use = "openai"\nretries = 8\nurl = '


def learned(folder: Path, steps: int, urls: Sequence[str], extra: Sequence[Any] = ()) -> dict[str, Any]:
    """How the run ended, how its groups did, which steps there were and from what, and what was noticed."""
    server = ALONE + json.dumps(urls[1]) if urls[0] == "alone" else POOL + json.dumps(list(urls))
    made = run_recipe(recipe(RECIPE.format(server=server, steps=steps)), folder, extra=extra)
    done = [event for event in made.events if isinstance(event, StepDone)]
    return {
        "status": made.status,
        "ends": Counter(ends(made.events).values()),
        "steps": [event.step for event in done],
        "oldest": max(event.metrics["sample/staleness"] for event in done),
        "ids": [event.ids for event in made.events if isinstance(event, GroupTrained)],
        "notices": [event.text for event in made.events if isinstance(event, Notice)],
        "longest": max(after.time - before.time for before, after in pairwise(done)),
    }


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    print(json.dumps(learned(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
