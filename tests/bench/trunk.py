"""What the four models of PPO take: on one trunk, and each with weights of its own.

    python tests/bench/trunk.py FOLDER

FOLDER: of a causal language model. Each way is built and learns one step in a process of its own; its peak is the most
memory that the process held, beyond what it held with its libraries loaded.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WAYS = ("one trunk", "four copies")
LORA = {"lora_rank": 16}
PLAIN = {"dtype": "fp32", "device": "cpu"}


def main(folder: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        reward = str(Path(place) / "reward")
        subprocess.run([sys.executable, __file__, folder, reward, "reward"], check=True)
        for way in WAYS:
            subprocess.run([sys.executable, __file__, folder, reward, way], check=True)


def measure(folder: str, reward: str, way: str) -> None:
    import anyio

    from truing.bus import Bus
    from truing.fields import ANSWERS, GROUP, LOGPROBS_REF, Group
    from truing.run import Run
    from truing_model import causal
    from truing_model.menu_policy import Policy
    from truing_model.plugin import AdamW, RewardModel, RewardScorer
    from truing_policy.plugin import Gae, Ppo
    from truing_tensor.groups import batch_of

    run = Run("bench", Path(reward).parent, 0, Bus(), wanted=Ppo().requires() | {LOGPROBS_REF})
    if way == "reward":
        model: Any = RewardModel(path=folder, **LORA, **PLAIN).build(run)
        Path(reward).mkdir()
        model.export(Path(reward))
        return
    before = peak()
    if way == "four copies":
        causal.share = lambda model: None
    alone = {"reference": folder} if way == "four copies" else {}
    critic = RewardModel(path=folder, **LORA, **PLAIN)
    spec = Policy(path=folder, critic=critic, advantage=Gae(kl=0.05), **LORA, **PLAIN, **alone)
    policy: Any = spec.build(run)
    scorer: Any = RewardScorer(path=reward, trunk=folder if way == "one trunk" else "", **PLAIN).build(run)
    policy.attach(AdamW(lr=1e-4).build(run), 1)
    built = peak()
    text = "What is the sum of the numbers from one to ten? " * 4
    groups = [Group(id=str(at), prompt=text, completions=["It is fifty-five. " * 4] * 4) for at in range(4)]
    batch = policy.encode(batch_of(groups)).batch
    assert ANSWERS not in batch
    batch = anyio.run(scorer.score, batch)
    loss = Ppo()
    policy.learn(policy.annotate(batch, loss.requires()), loss.build(run))
    size = sum(value.numel() * value.element_size() for value in policy.network.base.parameters()) / 2**20
    print(
        f"{way:>12}  weights {size:.0f} MiB  built {built - before:.0f} MiB  peak {peak() - before:.0f} MiB", flush=True
    )
    assert len(batch[GROUP]) == 16


def peak() -> float:
    """The most memory this process held until now, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    measure(*sys.argv[1:]) if len(sys.argv) > 2 else main(sys.argv[1])
