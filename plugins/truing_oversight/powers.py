"""Powers of permutations: questions, where points end, and an overseer who halves exponents (arXiv:1810.08575, 4.1)."""

from __future__ import annotations

import random
import re

import torch

from truing.fields import COMPLETIONS, GROUP, PROMPTS, Batch, Group, Message, Text
from truing.run import Run
from truing.stage import Weights
from truing_oversight import menu_amplify as menu
from truing_tensor.made_up import MadeUp

_QUESTION = re.compile(r"([a-z])\^(\d+)\(([A-Z])\)")


def permutation_powers(spec: menu.PermutationPowers, run: Run) -> MadeUp:
    """The source of a `permutation-powers` spec."""
    return MadeUp(
        spec,
        run,
        lambda: [
            question(spec, chr(ord("a") + which), exponent, point)
            for exponent in range(spec.least, spec.most + 1)
            for which in range(spec.permutations)
            for point in range(spec.points)
        ],
    )


class PowerOverseer:
    """Asks for half the exponent twice, and applies the permutation itself where one application is missing."""

    def __init__(self, spec: menu.PowerOverseer, run: Run) -> None:
        self._spec = spec

    async def sync_weights(self, weights: Weights) -> None:
        """It is a rule, and has no weights."""

    async def generate(self, batch: Batch) -> Batch:
        """The batch with what it writes next in each conversation."""
        said = [self._next(*both) for both in zip(batch[menu.ASKED], batch[PROMPTS], strict=True)]
        return batch.put_all({COMPLETIONS: said, GROUP: torch.arange(len(said))})

    def _next(self, asked: str, prompt: Text) -> str:
        assert not isinstance(prompt, str), "an overseer is shown a conversation"
        found = _QUESTION.fullmatch(asked)
        if not found:
            return "This is no power of a permutation."
        letter, exponent, point = found[1], int(found[2]), found[3]
        heard = [point, *(turn["content"].strip() for turn in prompt[1:] if turn["role"] == "user")]
        images = permutation(self._spec.seed, letter, self._spec.points, self._spec.confused)
        if heard[-1] not in images:
            return f"{heard[-1]} is no point."
        if exponent == 1:
            return f"answer: {images[point]}"
        if len(heard) < 3:
            return f"ask: {letter}^{exponent // 2}({heard[-1]})"
        return f"answer: {images[heard[-1]] if exponent % 2 else heard[-1]}"


def question(spec: menu.PermutationPowers, letter: str, exponent: int, point: int) -> Group:
    """A question, and where the point ends."""
    name = end = chr(ord("A") + point)
    images = permutation(spec.seed, letter, spec.points)
    for _ in range(exponent):
        end = images[end]
    asked: list[Message] = [{"role": "user", "content": f"{letter}^{exponent}({name})"}]
    answer: list[Message] = [{"role": "assistant", "content": end}]
    return Group(id=f"power-{spec.seed}-{letter}-{exponent}-{name}", prompt=asked, completions=[answer])


def permutation(seed: int, letter: str, points: int, confused: int = 0) -> dict[str, str]:
    """Where a permutation takes each point, a single cycle; of so many pairs of points the images are exchanged."""
    chance = random.Random(f"permutation/{seed}/{letter}/{points}")
    names = [chr(ord("A") + at) for at in range(points)]
    chance.shuffle(names)
    images = dict(zip(names, [*names[1:], names[0]], strict=True))
    chance.shuffle(names)
    for one, other in zip(names[:confused], names[confused : 2 * confused], strict=True):
        images[one], images[other] = images[other], images[one]
    return images
