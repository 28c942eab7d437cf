"""Whose completions a student learns from: its own for a share of the prompts, and what came with the others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import torch
from tests.feedback.test_revise import BYTES, Told, questions

from truing.bus import Bus
from truing.fields import (
    ANSWERS,
    COMPLETIONS,
    FINISH,
    GROUP,
    IDS,
    OPPONENT,
    SAMPLES,
    SEEDS,
    SEQ,
    TOKENS,
    VERSION,
    Batch,
)
from truing.groups import part
from truing.run import Run
from truing.sampling import numbers_of
from truing.testing import check_spec
from truing_feedback.menu_distill import OwnOrGiven
from truing_generate.plugin import Engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bytes")
    BYTES.save_pretrained(made)
    return made


def asked(count: int) -> Batch:
    answers: list[Any] = [[{"role": "assistant", "content": f"given <|end|> {at}"}] for at in range(count)]
    return questions(*(f"{at}?" for at in range(count))).put(ANSWERS, answers).put(SEEDS, list(range(count)))


def written(folder: Path, batch: Batch, own: float, seed: int = 0) -> Batch:
    made: Any = OwnOrGiven(generator=Told(), own=own).build(Run("test", folder, seed, Bus()))
    made._generator.say = lambda prompt: f"own {prompt[0]['content']}"

    async def generate() -> Batch:
        await made.sync_weights(SimpleNamespace(origin=str(folder), version=3))
        return await made.generate(batch)

    return anyio.run(generate)


def test_the_share_is_drawn_for_each_prompt_and_the_rest_is_what_came_with_it(folder: Path) -> None:
    batch = written(folder, asked(200), 0.3)
    given = batch[OPPONENT].tolist()
    assert 0.6 < sum(given) / 200 < 0.8
    assert batch[GROUP].tolist() == list(range(200))
    for at, text in enumerate(batch[COMPLETIONS]):
        tokens = batch[TOKENS][batch[SEQ] == at].tolist()
        said: Any = text if isinstance(text, str) else text[0]["content"]
        assert said == (f"given <|end|> {at}" if given[at] else f"own {at}?")
        # A mark in an answer is letters, and the end token comes once, at the end.
        assert tokens == [
            *BYTES(said, add_special_tokens=False, split_special_tokens=True)["input_ids"],
            BYTES.eos_token_id,
        ]
    assert set(batch[FINISH]) == {"end"}
    assert batch[VERSION].tolist() == [3] * 200
    assert numbers_of(batch)["sample/cut"] == 0.0


def test_what_is_drawn_depends_on_the_prompt_and_the_seed_alone(folder: Path) -> None:
    whole = written(folder, asked(40), 0.5)[OPPONENT]
    some = part(asked(40), range(10, 20))
    assert torch.equal(written(folder, some, 0.5)[OPPONENT], whole[10:20])
    assert not torch.equal(written(folder, asked(40), 0.5, seed=1)[OPPONENT], whole)


def test_a_look_with_samples_of_its_own_is_at_the_model_alone_and_nothing_but_given_ones_is_no_error(
    folder: Path,
) -> None:
    assert written(folder, asked(9).put(SAMPLES, 1), 0.0)[OPPONENT].sum() == 0
    given = written(folder, asked(9), 0.0)
    assert given[OPPONENT].sum() == 9
    assert set(numbers_of(given)) == {"sample/length"}
    assert given[IDS] == asked(9)[IDS]


def test_its_spec_keeps_its_promises() -> None:
    check_spec(OwnOrGiven, generator=Told())
    assert [fault.option for fault in OwnOrGiven(generator=Told(), own=1).problems()] == ["own"]
    both = OwnOrGiven(generator=Engine(samples=2, opponents=1))
    assert [fault.option for fault in both.problems()] == ["generator"]
