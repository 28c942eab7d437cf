"""Amplification: who is asked what, what is learned from it round by round, and where it ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch

from truing.bus import Bus
from truing.errors import RunFailed
from truing.fields import COMPLETIONS, GROUP, IDS, PROMPT_GROUP, PROMPT_TOKENS, PROMPTS, TOKENS, Batch, Fields, fields
from truing.run import Run
from truing.sampling import prompts_of
from truing.stage import GeneratorSpec, Weights
from truing.testing import check_spec
from truing_generate.plugin import Engine
from truing_model.plugin import ScratchLm
from truing_oversight.menu_amplify import CONSULTED, SPENT, Amplify, PermutationPowers, PowerOverseer
from truing_oversight.powers import permutation, question
from truing_tensor.groups import batch_of

LETTERS, POINTS = "ab", 8
Table = Mapping[str, str]


class Says(GeneratorSpec, frozen=True, kw_only=True):
    """Looks its answers up, and says the same to everything else."""

    table: Mapping[str, str] = {}
    otherwise: str = "A"

    def requires(self) -> Fields:
        return fields(PROMPTS)

    def build(self, run: Run) -> Any:
        return self

    async def sync_weights(self, weights: Weights) -> None:
        pass

    async def generate(self, batch: Batch) -> Batch:
        asked = [prompt[-1]["content"] for prompt in batch[PROMPTS] if not isinstance(prompt, str)]
        said = [self.table.get(text, self.otherwise) for text in asked]
        return batch.put_all({COMPLETIONS: said, GROUP: torch.arange(len(said))})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = Run("test", tmp_path_factory.mktemp("model"), 0, Bus())
    return ScratchLm(width=16, layers=1, device="cpu", dtype="fp32").build(run)


def powers(exponents: range) -> Batch:
    spec = PermutationPowers(points=POINTS)
    return batch_of(
        [question(spec, letter, at, point) for letter in LETTERS for at in exponents for point in range(POINTS)]
    )


def truth(exponents: range, confused: int = 0) -> dict[str, str]:
    """Where each point ends by repeated application, of permutations as an overseer holds them."""
    found: dict[str, str] = {}
    for letter in LETTERS:
        images = permutation(0, letter, POINTS, confused)
        for start in images:
            end = start
            for at in range(1, max(exponents) + 1):
                end = images[end]
                if at in exponents:
                    found[f"{letter}^{at}({start})"] = end
    return found


def amplified(model: Any, exponents: range, assistant: GeneratorSpec, **options: Any) -> Batch:
    options.setdefault("overseer", PowerOverseer(points=POINTS))
    amplify: Any = Amplify(assistant=assistant, **options).build(Run("test", Path(), 0, Bus()))
    prompts = model.encode(prompts_of(powers(exponents))).batch

    async def go() -> Batch:
        await amplify.sync_weights(model.weights())
        return await amplify.generate(prompts)

    return anyio.run(go)


def answers(batch: Batch) -> dict[str, str]:
    said = zip(batch[PROMPTS], batch[COMPLETIONS], strict=True)
    return {prompt[0]["content"]: text[0]["content"] for prompt, text in said}  # pyright: ignore[reportArgumentType]


def iterated(model: Any, confused: int) -> Table:
    """What an assistant that learns by heart knows after three rounds; in the first the overseer answers alone."""
    known: dict[str, str] = {}
    for most in (1, 3, 7):
        overseer = PowerOverseer(points=POINTS, confused=confused)
        known.update(answers(amplified(model, range(1, most + 1), Says(table=dict(known)), overseer=overseer)))
    return known


def test_the_menu_keeps_its_promises() -> None:
    check_spec(Amplify, overseer=PowerOverseer(), assistant=Engine(samples=1))
    check_spec(PowerOverseer)
    check_spec(PermutationPowers)
    assert [fault.option for fault in Amplify(overseer=PowerOverseer(), assistant=Engine(samples=4)).problems()] == [
        "assistant"
    ]


def test_rounds_solve_what_no_example_showed_and_a_frozen_assistant_does_not(model: Any) -> None:
    deep = truth(range(4, 8))
    learned = iterated(model, confused=0)
    assert all(learned[asked] == end for asked, end in deep.items())
    once = truth(range(1, 2))
    frozen = answers(amplified(model, range(4, 8), Says(table=once)))
    assert sum(frozen[asked] == end for asked, end in deep.items()) / len(deep) < 0.25


def test_an_error_of_the_overseer_is_inherited_exactly(model: Any) -> None:
    learned = iterated(model, confused=1)
    assert learned == truth(range(1, 8), confused=1)
    right = truth(range(1, 8))
    assert sum(learned[asked] == right[asked] for asked in right) / len(right) < 0.6


def test_what_is_asked_at_each_depth_goes_to_the_overseer_until_the_last_which_the_assistant_answers(
    model: Any,
) -> None:
    once = Says(table=truth(range(1, 2)))
    found = amplified(model, range(5, 6), once, depth=2)
    assert answers(found) == truth(range(5, 6))
    first = found[CONSULTED][0]
    images = permutation(0, "a", POINTS)
    second, fourth = images[images["A"]], images[images[images[images["A"]]]]
    assert first == [
        [2, "a^1(A)", images["A"]],
        [2, f"a^1({images['A']})", second],
        [1, "a^2(A)", second],
        [2, f"a^1({second})", images[second]],
        [2, f"a^1({images[second]})", fourth],
        [1, f"a^2({second})", fourth],
    ]
    assert len(found[TOKENS]) == 2 * len(found[IDS])
    assert int(found[SPENT].min()) > 0


def test_who_asks_without_end_or_says_neither_abstains(model: Any) -> None:
    some, idle = range(2, 3), Says()
    with pytest.raises(RunFailed, match=r"abstains on power-0-a-2-A: budget = 900 tokens are spent"):
        amplified(model, some, idle, overseer=Says(otherwise="ask: a^2(A)"), depth=10**6, budget=900)
    with pytest.raises(RunFailed, match=r"asked 'a\^2\(A\)' it neither asks nor answers: 'nothing at all is no point"):
        amplified(model, some, Says(otherwise="nothing at all"))


def test_an_assistant_is_asked_by_tokens_as_a_prompt_of_its_own(model: Any) -> None:
    read: list[str] = []

    class Reads(Says, frozen=True, kw_only=True):
        async def generate(self, batch: Batch) -> Batch:
            sizes = torch.bincount(batch[PROMPT_GROUP]).tolist()
            read.extend(model.tokenizer.decode(part.tolist()) for part in batch[PROMPT_TOKENS].split(sizes))
            return await Says.generate(self, batch)

    amplified(model, range(2, 3), Reads())
    assert read[0] == "<|user|>a^1(A)<|end|><|assistant|>"
