"""Completions of several turns: what an environment says is read and never taken for what the model wrote."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import anyio
import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM

from truing.attempts import fault
from truing.collect import rows_of
from truing.conduct import conduct
from truing.events import Evaluated, Event, GroupFailed, StepDone
from truing.fields import (
    COMPLETIONS,
    EARNED,
    FINISH,
    GROUP,
    HEARD,
    HEARD_BEFORE,
    LOGPROBS_OLD,
    PROMPT_TOKENS,
    SEQ,
    TOKENS,
    TURNS,
    VERSION,
    Batch,
)
from truing.journal import Journal
from truing.replay import departures
from truing.run import Run, Stop
from truing.script import Script
from truing.stage import EnvironmentSpec, Reply, Said, Task
from truing.testing import recipe, run_recipe, with_specs
from truing_data.menu_collected import Collected
from truing_generate.plugin import Engine, OpenAi, Scripted
from truing_generate.turns import Hearing
from truing_model.encode import Encoder
from truing_model.layout import lengths_of, whole_answers
from truing_model.scratch import byte_tokenizer
from truing_tensor.groups import batch_of
from truing_texts.chat import Chat

from .conftest import Told, asked
from .fake import END, FakeServer
from .samplers import FromFolder, asked as prompted, by_completion, generated, run_in

LETTERS = tuple(chr(at) for at in range(33, 127, 2))
"""so many strings that end a turn that a model of random weights ends some"""


class Parrot(EnvironmentSpec, frozen=True, kw_only=True):
    """Says a turn back, until it has heard enough. `closed` counts episodes that were let go."""

    name: ClassVar[str] = "parrot"
    target: ClassVar[str] = f"{__name__}:Parroting"
    closed: ClassVar[list[str]] = []

    ends: tuple[str, ...] = ("?",)
    enough: int = 99
    fails_on: str = ""
    slow: bool = False

    def stops(self) -> Sequence[str]:
        return self.ends


class Parroting:
    def __init__(self, spec: Parrot, run: Run) -> None:
        self._spec = spec

    async def reset(self, task: Task) -> Episode:
        return Episode(self._spec, task)


class Episode:
    def __init__(self, spec: Parrot, task: Task) -> None:
        self._spec, self._task, self._heard = spec, task, 0

    async def step(self, said: Said) -> Reply:
        if self._task.id == self._spec.fails_on:
            raise OSError("no such tool")
        await anyio.sleep(random.random() * 0.01 if self._spec.slow else 0)
        self._heard += 1
        return Reply(f"[{said.text}]", done=self._heard >= self._spec.enough, reward=0.5)

    async def close(self) -> None:
        Parrot.closed.append(self._task.id)


def scripted(told: Told, *lines: str, **options: Any) -> Batch:
    given = {"samples": 1, "max_new_tokens": 20, "environment": Parrot(enough=3), **options}
    spec = Scripted(lines=list(lines), **given)
    assert not list(spec.problems())
    batch = anyio.run(spec.build(told.run).generate, asked("one"))
    assert fault(asked("one"), batch) == ""
    assert set(batch) >= spec.provides()
    return batch


def test_what_is_heard_stands_between_the_models_tokens_and_is_none_of_them(told: Told) -> None:
    batch = scripted(told, "ab?", "c?", "d")
    assert batch[COMPLETIONS] == ["ab?[ab]c?[c]d"]
    assert len(batch[TOKENS]) == len(batch[SEQ]) == len(batch[LOGPROBS_OLD]) == len("ab?c?d") + 1
    assert batch[HEARD_BEFORE].tolist() == [3] * 4 + [5] * 3
    whole, own = whole_answers(batch)
    plain = scripted(told, "ab?[ab]c?[c]d", environment=None, stop=[])
    assert whole.tolist() == plain[TOKENS].tolist()
    assert whole[own].tolist() == batch[TOKENS].tolist()
    assert (batch[TURNS].tolist(), batch[EARNED].tolist(), batch[FINISH]) == ([3], [1.5], ["end"])
    assert lengths_of(batch) == [(3, [14])]


@pytest.mark.parametrize(
    ("options", "finish", "text", "turns"),
    [
        ({"turns": 2}, "turns", "ab?[ab]c", 2),
        ({"max_new_tokens": 4}, "length", "ab?[ab]c", 2),
        ({"max_new_tokens": 3}, "length", "ab", 1),
        ({"max_heard": 6}, "heard", "ab?[ab]c", 2),
    ],
)
def test_a_completion_says_which_limit_it_met(
    options: dict[str, Any], finish: str, text: str, turns: int, told: Told
) -> None:
    batch = scripted(told, "ab?", "c?", "d", **options)
    assert (batch[FINISH], batch[COMPLETIONS], batch[TURNS].tolist()) == ([finish], [text], [turns])


def test_what_was_collected_in_turns_is_learned_without_what_was_heard(told: Told) -> None:
    batch = scripted(told, "ab?", "c?", "d")
    data = told.run.folder / "sample" / "data"
    data.mkdir(parents=True)
    (data / "groups.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows_of(batch)))
    source: Any = Collected(path="@sample", form="all").build(told.run)
    anyio.run(source.open)
    tokenizer = byte_tokenizer()
    learned = Encoder(tokenizer, 64, truncate=False)(batch_of(source._groups)).batch
    assert tokenizer.decode(learned[TOKENS].tolist()) == "ab?c?d<|end|>"
    assert tokenizer.decode(learned[HEARD].tolist()) == "[ab][c]"
    assert learned[HEARD_BEFORE].tolist() == batch[HEARD_BEFORE].tolist()


def test_in_a_conversation_the_tokens_are_those_of_the_whole_conversation(folder_of: Any) -> None:
    chat = Chat(str(folder_of("llama")), "here")
    turns = [
        {"role": role, "content": said} for role, said in (("user", "hi"), ("assistant", "2+2"), ("user", "4<|end|>"))
    ]
    hearing = Hearing.of(chat, {chat.end})
    sampled = [*chat.ids("2+2", plain=True), chat.end]
    row = [*chat.tokens(turns[:1]), *sampled, *hearing(Reply("4<|end|>"), talks=True, ended=True)]
    assert row == chat.tokens(turns)
    cut = [*chat.tokens(turns[:1]), *sampled[:-1], *hearing(Reply("4<|end|>"), talks=True, ended=False)]
    assert cut == chat.tokens(turns)
    assert hearing(Reply("4"), talks=False, ended=True) == chat.ids("4")


def talked(folder: Path, place: Path, **options: Any) -> Batch:
    environment = options.pop("environment", Parrot(ends=LETTERS, enough=4, slow=True))
    given = {"max_new_tokens": 16, "samples": 6, "environment": environment, **options}
    return generated(folder, run_in(place), prompted("one", "another prompt"), **given)


def test_log_probabilities_of_every_turn_are_the_models_own_given_all_it_said_and_heard(
    folder_of: Any, tmp_path: Path
) -> None:
    batch = talked(folder_of("llama"), tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(folder_of("llama"))
    assert len(batch[HEARD]) > 20
    assert max(batch[TURNS].tolist()) > 2
    whole, own = whole_answers(batch)
    sizes = [size for _, part in lengths_of(batch) for size in part]
    prompts, at = batch[PROMPT_TOKENS].split([3, 14]), 0
    found = torch.empty(len(whole))
    for group, answer in zip(batch[GROUP].tolist(), whole.split(sizes), strict=True):
        logits = model(torch.cat([prompts[group], answer])[None]).logits[0, len(prompts[group]) - 1 : -1]
        found[at : at + len(answer)] = logits.log_softmax(1).gather(1, answer[:, None])[:, 0]
        at += len(answer)
    torch.testing.assert_close(batch[LOGPROBS_OLD], found[own], rtol=0, atol=1e-4)


@pytest.mark.parametrize("seats", [1, 3])
def test_neither_seats_nor_the_time_an_answer_takes_change_what_is_said(
    seats: int, folder_of: Any, tmp_path: Path
) -> None:
    one, other = (talked(folder_of("llama"), tmp_path, seats=count) for count in (seats, 64))
    assert by_completion(one) == by_completion(other)
    assert one[HEARD].tolist() == other[HEARD].tolist()
    assert one[COMPLETIONS] == other[COMPLETIONS]


def test_new_weights_wait_for_the_last_turn(folder_of: Any, tmp_path: Path) -> None:
    async def go() -> tuple[Batch, int]:
        spec = Engine(
            samples=4, max_new_tokens=12, dtype="fp32", device="cpu", environment=Parrot(ends=LETTERS, slow=True)
        )
        engine: Any = spec.build(run_in(tmp_path))
        await engine.sync_weights(FromFolder(folder_of("llama")))
        async with anyio.create_task_group() as tasks:
            found: list[Batch] = []

            async def sample() -> None:
                found.append(await engine.generate(prompted("one")))

            tasks.start_soon(sample)
            await anyio.sleep(0.005)
            tasks.start_soon(engine.sync_weights, FromFolder(folder_of("llama"), 1, scaled=0.0))
        return found[0], engine._version

    batch, version = anyio.run(go)
    assert version == 1
    assert set(batch[VERSION].tolist()) == {0}
    assert by_completion(batch) == by_completion(
        generated(
            folder_of("llama"),
            run_in(tmp_path),
            prompted("one"),
            samples=4,
            max_new_tokens=12,
            environment=Parrot(ends=LETTERS),
        )
    )


def test_a_server_is_sent_all_tokens_so_far_and_what_was_heard(told: Told, server: FakeServer, folder_of: Any) -> None:
    folder = str(folder_of("llama"))
    spec = OpenAi(
        url=server.url, samples=2, max_new_tokens=30, turns=3, tokenizer=folder, environment=Parrot(ends=("?",))
    )
    assert not list(spec.problems())
    batch = anyio.run(spec.build(told.run).generate, asked("one"))
    assert fault(asked("one"), batch) == ""
    whole, _ = whole_answers(batch)
    bodies = server.bodies()
    assert len(bodies) == sum(batch[TURNS].tolist())
    for at, size in enumerate(lengths_of(batch)[0][1]):
        row = [*map(ord, "one"), *whole[:size].tolist()] if not at else [*map(ord, "one"), *whole[-size:].tolist()]
        mine = [body for body in bodies if row[: len(body["prompt"])] == body["prompt"]]
        assert len({body["seed"] for body in mine}) == len(mine) >= batch[TURNS][at]
        assert all(body["stop"] == ["?"] and body["max_tokens"] <= 30 for body in mine)
    assert END in batch[TOKENS].tolist()


LOOP = """
name = "turns"

[source]
use = "arithmetic-chains"
chat = false
size = 8

[holdout]
use = "arithmetic-chains"
chat = false
skip = 8
size = 2

[look]
use = "pass-at-k"
k = [1, 2]
beside = true

[generator]
use = "engine"
samples = 2
max_new_tokens = 8
dtype = "fp32"
device = "cpu"

[generator.environment]
use = "parrot"
ends = ["%s"]
slow = true
%s

[scorer]
use = "mix"
of.earned = { use = "earned" }
of.close = { use = "match", close = true }

[advantage]
use = "group-relative"

[model]
use = "scratch-lm"
width = 16
heads = 2
dtype = "fp32"
device = "cpu"

[optimizer]
use = "adamw"
lr = 3e-2

[loss]
use = "grpo"

[loop]
batch = 4
epochs = 2
staleness = 1
"""


def learned(folder: Path, options: str = "") -> Any:
    ends = '", "'.join(letter for letter in LETTERS if letter not in '"\\')
    made = recipe(LOOP % (ends, options), Parrot)
    return made, run_recipe(made, folder)


def ran_in(journal: Journal) -> list[Event]:
    return [event for _, event in journal.events()]


def test_an_environment_that_fails_costs_its_group_and_lets_go_of_all(tmp_path: Path) -> None:
    Parrot.closed.clear()
    _, ran = learned(tmp_path, 'fails_on = "chain-0-3"')
    failed = [event for event in ran.events if isinstance(event, GroupFailed)]
    assert {(event.id, event.stage) for event in failed} == {("chain-0-3", "generate")}
    assert failed[0].error == 'the environment "parrot" failed on chain-0-3, turn 1: OSError: no such tool'
    assert [event.metrics["data/failed"] for event in ran.events if isinstance(event, StepDone)][-1] == 2
    # Two samples of eight prompts in two epochs, those of two waves once more; two looks at two prompts.
    assert len(Parrot.closed) == 2 * (16 + 8 + 4)


def test_an_asynchronous_run_of_several_turns_is_replayed_bit_for_bit(tmp_path: Path) -> None:
    made, first = learned(tmp_path / "first")
    assert [event for event in first.events if isinstance(event, StepDone)][-1].metrics["sample/turns"] > 1
    journal = Journal.create(tmp_path / "again", made, {})
    script = Script(first.events)
    assert anyio.run(partial(conduct, made, journal, with_specs(Parrot), Stop(), script=script)) == "finished"
    assert departures(Journal(first.folder), journal) == []
    one, other = ([event for event in some if isinstance(event, Evaluated)] for some in (first.events, ran_in(journal)))
    assert [(look.step, look.metrics) for look in one] == [(look.step, look.metrics) for look in other]
    assert [look.step for look in one] == [0, 4]


def test_what_cannot_be_answered_is_refused_before_a_run() -> None:
    told = {
        fault.option
        for spec in (
            Scripted(lines=["a"], turns=2),
            Engine(opponents=1, environment=Parrot()),
            OpenAi(environment=Parrot()),
            OpenAi(environment=Parrot(), tokens="text", tokenizer="x"),
        )
        for fault in spec.problems()
    }
    assert told == {"turns", "opponents", "tokenizer", "tokens"}
