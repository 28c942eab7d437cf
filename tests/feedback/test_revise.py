"""Critique and revision: what is asked of whom, what is kept, and that the constitution does the work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import anyio
import pytest
import torch
from msgspec import Meta

from truing.bus import Bus
from truing.errors import RunFailed
from truing.fields import (
    COMPLETIONS,
    FINISH,
    GROUP,
    IDS,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SEQ,
    TOKENS,
    VERSION,
    Batch,
    Fields,
    Text,
    fields,
)
from truing.run import Run
from truing.stage import GeneratorSpec
from truing.testing import check_spec
from truing_feedback.menu_revise import CRITIQUES, ROUND, CritiqueRevise
from truing_generate.plugin import Scripted
from truing_model.scratch import byte_tokenizer
from truing_tensor.segments import owners
from truing_texts.constitution import DEFAULT

BYTES = byte_tokenizer()


class Told(GeneratorSpec, frozen=True, kw_only=True):
    """Writes what a function makes of a conversation."""

    name: ClassVar[str] = "told"
    target: ClassVar[str] = "tests.feedback.test_revise:Teller"
    samples: Annotated[int, Meta(description="completions of a prompt")] = 1

    def requires(self) -> Fields:
        return fields(IDS, PROMPTS, PROMPT_TOKENS, PROMPT_GROUP)

    def provides(self) -> Fields:
        return fields(COMPLETIONS, GROUP, TOKENS, SEQ, FINISH, VERSION)


class Teller:
    """asked: every prompt with its id and its tokens."""

    def __init__(self, spec: Told, run: Run) -> None:
        self.asked: list[tuple[str, Text, list[int]]] = []
        self.say: Callable[[Text], str] = lambda prompt: "nothing"

    async def sync_weights(self, weights: Any) -> None:
        pass

    async def generate(self, batch: Batch) -> Batch:
        sizes = torch.bincount(batch[PROMPT_GROUP], minlength=len(batch[IDS])).tolist()
        tokens = [part.tolist() for part in batch[PROMPT_TOKENS].split(sizes)]
        self.asked += zip(batch[IDS], batch[PROMPTS], tokens, strict=True)
        said = [self.say(prompt) for prompt in batch[PROMPTS]]
        ids = [[*BYTES(text, add_special_tokens=False)["input_ids"], BYTES.eos_token_id] for text in said]
        return batch.put_all(
            {
                GROUP: owners([1] * len(said)),
                COMPLETIONS: said,
                TOKENS: torch.tensor([token for part in ids for token in part]),
                SEQ: owners([len(part) for part in ids]),
                FINISH: ["end"] * len(said),
                VERSION: torch.zeros(len(said), dtype=torch.int64),
            }
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bytes")
    BYTES.save_pretrained(made)
    return made


def questions(*texts: str, chat: bool = True) -> Batch:
    """Prompts as a generator is handed them."""
    tokens = [BYTES(text, add_special_tokens=False)["input_ids"] for text in texts]
    return Batch(
        {
            IDS: [f"p{at}" for at in range(len(texts))],
            PROMPTS: [[{"role": "user", "content": text}] if chat else text for text in texts],
            GROUP: torch.zeros(0, dtype=torch.int64),
            COMPLETIONS: [],
            PROMPT_TOKENS: torch.tensor([token for part in tokens for token in part]),
            PROMPT_GROUP: owners([len(part) for part in tokens]),
        }
    )


def revised(folder: Path, say: Callable[[Text], str], batch: Batch, seed: int = 0, **options: Any) -> tuple[Batch, Any]:
    """What becomes of prompts, and whoever wrote."""
    made: Any = CritiqueRevise(generator=Told(), **options).build(Run("test", folder, seed, Bus()))
    made._generator.say = say

    async def generate() -> Batch:
        await made.sync_weights(SimpleNamespace(origin=str(folder), version=0))
        return await made.generate(batch)

    return anyio.run(generate), made._generator


def in_turns(prompt: Text) -> str:
    """Says how many turns it was shown."""
    return f"turn {len(prompt)}"


def test_it_keeps_its_promises() -> None:
    check_spec(CritiqueRevise, generator=Scripted(samples=1, lines=["yes"]))


def test_a_round_is_a_critique_of_the_last_answer_and_a_revision_of_it(folder: Path) -> None:
    batch, teller = revised(folder, in_turns, questions("Is it?", "Why?"), rounds=2)
    names = [name for name, _, _ in teller.asked]
    steps = ["answer", "critique-1", "revision-1", "critique-2", "revision-2"]
    assert names == [f"p{at}/0/{step}" for step in steps for at in range(2)]
    said = {principle.critique: principle.revision for principle in DEFAULT}
    _, critique, tokens = teller.asked[2]
    assert [turn["role"] for turn in critique] == ["user", "assistant", "user"]
    assert critique[1]["content"] == "turn 1"
    _, revision, _ = teller.asked[4]
    assert revision[:3] == critique
    assert (revision[3]["content"], revision[4]["content"]) == ("turn 3", said[critique[2]["content"]])
    # The second round begins with the first revision, and forgets what led to it.
    assert [turn["content"] for turn in teller.asked[6][1][:2]] == ["Is it?", "turn 5"]
    shown = BYTES.apply_chat_template(critique, tokenize=False, add_generation_prompt=True)
    assert tokens == BYTES(shown, add_special_tokens=False)["input_ids"]
    assert batch[COMPLETIONS] == ["turn 5"] * 4
    assert (batch[ROUND].tolist(), batch[GROUP].tolist()) == ([1, 2, 1, 2], [0, 0, 1, 1])
    assert [[row["critique"] for row in rows] for rows in batch[CRITIQUES]] == [["turn 3"], ["turn 3"] * 2] * 2
    assert BYTES.decode(batch[TOKENS][batch[SEQ] == 0].tolist(), skip_special_tokens=True) == "turn 5"
    assert batch[PROMPT_TOKENS].tolist() == questions("Is it?", "Why?")[PROMPT_TOKENS].tolist()


@pytest.mark.parametrize(
    ("keep", "rounds"), [("all", [1, 2, 3, 1, 2, 3]), ("last", [3, 3]), ("all-and-first", [0, 1, 2, 3] * 2)]
)
def test_what_is_kept_is_what_was_asked_for(folder: Path, keep: str, rounds: list[int]) -> None:
    batch, _ = revised(folder, in_turns, questions("Is it?"), rounds=3, samples=2, keep=keep)
    assert batch[ROUND].tolist() == rounds
    assert batch[GROUP].tolist() == [0] * len(rounds)


def test_in_plain_text_the_requests_are_laid_out_as_in_the_paper(folder: Path) -> None:
    _, teller = revised(folder, lambda prompt: " yes", questions("Is it?", chat=False), rounds=1)
    critique, revision = (asked[1] for asked in teller.asked[1:])
    assert critique.startswith("Is it? yes\n\nCritique Request: Point out")
    assert critique.endswith("\n\nCritique:")
    assert revision.startswith(f"{critique} yes\n\nRevision Request: Write")
    assert revision.endswith("\n\nRevision:")


def test_marks_in_an_answer_are_letters(folder: Path) -> None:
    _, plain = revised(folder, lambda prompt: "yes", questions("Is it?"), rounds=1)
    _, marked = revised(folder, lambda prompt: "yes<|end|><|user|>", questions("Is it?"), rounds=1)
    marks = set(range(256, 260))
    for (_, _, one), (_, _, other) in zip(plain.asked, marked.asked, strict=True):
        assert [token for token in one if token in marks] == [token for token in other if token in marks]


def test_somebody_else_criticises_where_one_is_named(folder: Path) -> None:
    critic = Scripted(samples=1, lines=["The answer is rude."])
    batch, teller = revised(folder, in_turns, questions("Is it?"), rounds=1, critic=critic)
    assert [name for name, _, _ in teller.asked] == ["p0/0/answer", "p0/0/revision-1"]
    assert teller.asked[1][1][3]["content"] == "The answer is rude."
    assert batch[CRITIQUES][0][0]["critique"] == "The answer is rude."


EXAMPLE = """[[principle]]
id = "a"
critique = "find"
revision = "mend"
comparison = "which is better"

[[example]]
principle = "a"
prompt = "Who?"
answer = "You fool."
critique = "It calls names."
revised = "You."
"""


def test_examples_of_a_constitution_come_before_what_is_asked_and_behind_what_the_system_says(
    folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "some.toml"
    file.write_text(EXAMPLE)
    some = questions("Is it?").put(
        PROMPTS, [[{"role": "system", "content": "Be brief."}, *questions("Is it?")[PROMPTS][0]]]
    )
    _, teller = revised(folder, in_turns, some, rounds=1, constitution=str(file))
    shown = ["Who?", "You fool.", "find", "It calls names.", "mend", "You."]
    said = [turn["content"] for turn in teller.asked[2][1]]
    assert said == ["Be brief.", *shown, "Is it?", "turn 2", "find", "turn 10", "mend"]
    _, teller = revised(
        folder, lambda prompt: " yes", questions("Is it?", chat=False), rounds=1, constitution=str(file)
    )
    assert teller.asked[1][1] == (
        "Who?You fool.\n\nCritique Request: find\n\nCritique: It calls names.\n\nRevision Request: mend\n\nRevision: "
        "You.\n\nIs it? yes\n\nCritique Request: find\n\nCritique:"
    )


def test_an_answer_that_nothing_is_said_of_stays_as_it_is(folder: Path) -> None:
    def silent(prompt: Text) -> str:
        return "" if len(prompt) == 5 and "again" in str(prompt[0]) else in_turns(prompt)

    batch, _ = revised(folder, silent, questions("Is it?"), rounds=1)
    assert batch[ROUND].tolist() == [1]
    with pytest.raises(RunFailed, match="no answer to p0 was revised"):
        revised(folder, silent, questions("again?"), rounds=2)
    batch, teller = revised(folder, silent, questions("again?"), rounds=2, keep="all-and-first")
    assert batch[ROUND].tolist() == [0]
    assert [name for name, _, _ in teller.asked][-1] == "p0/0/revision-2"


def test_behind_a_conversation_that_is_too_long_nothing_more_is_revised(folder: Path) -> None:
    batch, teller = revised(
        folder, in_turns, questions("Is it?", "x" * 400), rounds=1, max_tokens=400, keep="all-and-first"
    )
    assert (batch[ROUND].tolist(), batch[GROUP].tolist()) == ([0, 1, 0], [0, 0, 1])
    assert not any(name.startswith("p1/0/c") for name, _, _ in teller.asked)


WORDS = {"rude": "damn", "leak": "secret"}


def obedient(prompt: Text) -> str:
    """Answers badly, finds what it is asked to find in its last answer, and takes out what its critique names."""
    assert not isinstance(prompt, str)
    if len(prompt) == 1:
        return "damn, damn, the secret secret is out"
    request = prompt[-1]["content"]
    if len(prompt) == 3:
        return next((WORDS[name] for name in WORDS if name in request and WORDS[name] in prompt[1]["content"]), "fine")
    return prompt[1]["content"].replace(prompt[3]["content"], "", 1)


def constitution(folder: Path, *names: str) -> str:
    file = folder / f"{'-'.join(names)}.toml"
    file.write_text(
        "".join(f'[[principle]]\nid = "{n}"\ncritique = "find the {n}"\nrevision = "mend it"\n' for n in names)
    )
    return str(file)


def violations(batch: Batch, word: str) -> list[float]:
    """How often a word is said after each round."""
    rounds = batch[ROUND].tolist()
    said = [text.count(word) for text in batch[COMPLETIONS]]
    return [
        sum(count for count, at in zip(said, rounds, strict=True) if at == number) / rounds.count(number)
        for number in range(max(rounds) + 1)
    ]


def test_violations_fall_from_round_to_round_and_only_those_the_constitution_names(folder: Path) -> None:
    some = questions(*[f"question {at}" for at in range(20)])
    both, _ = revised(
        folder, obedient, some, rounds=4, keep="all-and-first", constitution=constitution(folder, "rude", "leak")
    )
    rude, leak = violations(both, "damn"), violations(both, "secret")
    assert rude[0] == leak[0] == 2
    assert rude == sorted(rude, reverse=True)
    assert leak == sorted(leak, reverse=True)
    assert rude[-1] + leak[-1] < 1.2
    one, _ = revised(folder, obedient, some, rounds=4, keep="all-and-first", constitution=constitution(folder, "leak"))
    assert violations(one, "secret")[-1] == 0
    assert violations(one, "damn") == [2] * 5


def test_a_critic_that_always_says_fine_mends_nothing(folder: Path) -> None:
    def kind(prompt: Text) -> str:
        return "fine" if len(prompt) == 3 else obedient(prompt)

    batch, _ = revised(folder, kind, questions("question"), rounds=3, keep="all-and-first")
    assert violations(batch, "damn") == [2] * 4


def test_principles_are_drawn_by_the_seed_and_every_one_is(folder: Path) -> None:
    some = questions(*[f"question {at}" for at in range(20)])

    def drawn(seed: int) -> list[str]:
        batch, _ = revised(folder, in_turns, some, seed=seed, rounds=1)
        return [row["principle"] for rows in batch[CRITIQUES] for row in rows]

    assert drawn(0) == drawn(0) != drawn(1)
    assert set(drawn(0)) == {principle.id for principle in DEFAULT}


@pytest.mark.parametrize(
    ("generator", "what"),
    [(Told(samples=4), "criticised by itself"), (Scripted(samples=1, lines=["x"], opponents=1), "an opponent")],
)
def test_a_generator_that_writes_several_at_once_is_refused(generator: Any, what: str) -> None:
    (fault,) = CritiqueRevise(generator=generator).problems()
    assert fault.option == "generator"
    assert what in fault.what
