"""From completions, one by one, to a batch; and the seed of each.

Whatever writes a completion, a server or a script, it is checked and laid out here, so that a loss can rely on it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch

from truing.fields import (
    COMPLETIONS,
    EARNED,
    FINISH,
    GROUP,
    HEARD,
    IDS,
    LOGPROBS_OLD,
    LOGPROBS_SAMPLED,
    OPPONENT,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    SAMPLES,
    SEEDS,
    SEQ,
    TEMPERATURE,
    TOKENS,
    TURNS,
    VERSION,
    Batch,
    Field,
    Fields,
    Message,
    Text,
)
from truing.run import Run
from truing_generate.plugin import SPOKEN
from truing_tensor.segments import owners
from truing_tensor.turns import heard_fields

Finish = Literal["end", "stop", "length", "turns", "heard"]
_ROUNDING = 1e-3


class Completion(NamedTuple):
    """One completion. logprobs: under the model; sampled: under the distribution its tokens were drawn from. opponent:
    whether it is the opponent's and not the policy's. Of several turns: how many; heard: of each answer how many tokens
    stand before it, and its own; earned: what the environment gave for it; spoken: who said what, if `text` does not
    tell."""

    text: Text
    tokens: Sequence[int]
    finish: Finish
    version: int
    logprobs: Sequence[float] = ()
    sampled: Sequence[float] = ()
    opponent: bool = False
    turns: int = 1
    heard: Sequence[tuple[int, Sequence[int]]] = ()
    earned: float = 0.0
    spoken: Sequence[Message] = ()


class Wanted(NamedTuple):
    """What is asked for of each prompt. Where a batch says itself how many completions it wants, it wants no
    opponent's."""

    samples: int
    opponents: int
    temperature: float

    @classmethod
    def of(cls, batch: Batch, samples: int, opponents: int = 0, temperature: float = 1.0) -> Wanted:
        """What a batch asks for, and where it says nothing, what a generator was made for."""
        opponents = 0 if SAMPLES in batch or TEMPERATURE in batch else opponents
        return cls(batch.get(SAMPLES, samples), opponents, batch.get(TEMPERATURE, temperature))


class Seeds:
    """The seed of every sample: a hash of the run's seed, of where its phase stands (`SEEDS`), the prompt's id and the
    number of the sample; never of a worker, the time of day or the weights.

    A prompt that is asked several times at once gets other seeds each time. Where nobody says where the phase stands,
    the version of the weights does, and how often the prompt was asked under it.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._asked: Counter[str] = Counter()
        self._version: int | None = None

    def draw(self, batch: Batch, version: int, samples: int) -> list[list[int]]:
        """The seeds of the samples of each prompt. version: of the weights."""
        if SEEDS in batch or version != self._version:
            self._asked.clear()
            self._version = None if SEEDS in batch else version
        places = batch[SEEDS] if SEEDS in batch else [version] * len(batch[IDS])
        drawn: list[list[int]] = []
        for name, place in zip(batch[IDS], places, strict=True):
            again = [self._asked[name]] if self._asked[name] else []
            self._asked[name] += 1
            drawn.append([self._run.seed_for("sample", name, place, number, *again) for number in range(samples)])
        return drawn


def prompts(batch: Batch) -> list[list[int]]:
    """The tokens of each prompt."""
    found: list[list[int]] = [[] for _ in batch[IDS]]
    for group, token in zip(batch[PROMPT_GROUP].tolist(), batch[PROMPT_TOKENS].tolist(), strict=True):
        found[group].append(token)
    return found


def completed(batch: Batch, groups: Sequence[Sequence[Completion]], provides: Fields) -> Batch:
    """The batch with the completions of each of its groups, and with the fields of those that `provides` names.

    What it had along completions, tokens, pairs or steps belonged to others and is left out.
    """
    flat = [completion for group in groups for completion in group]
    values: dict[Field[Any], Any] = {
        GROUP: torch.tensor([at for at, group in enumerate(groups) for _ in group], dtype=torch.int64),
        COMPLETIONS: [completion.text for completion in flat],
        TOKENS: torch.tensor([token for completion in flat for token in completion.tokens], dtype=torch.int64),
        SEQ: owners([len(completion.tokens) for completion in flat]),
        FINISH: [completion.finish for completion in flat],
        VERSION: torch.tensor([completion.version for completion in flat], dtype=torch.int64),
    }
    if OPPONENT in provides:
        values[OPPONENT] = torch.tensor([completion.opponent for completion in flat], dtype=torch.int64)
    for key, each in (
        (LOGPROBS_OLD, [completion.logprobs for completion in flat]),
        (LOGPROBS_SAMPLED, [completion.sampled for completion in flat]),
    ):
        if key in provides:
            values[key] = torch.tensor([value for some in each for value in some], dtype=torch.float32)
    if HEARD in provides:
        values |= _turned(flat)
    kept = {key: value for key, value in batch.items() if key.dims in ("", "group", "prompt_token")}
    return Batch(kept).put_all(values)


def _turned(flat: Sequence[Completion]) -> dict[Field[Any], Any]:
    """What completions of several turns have beside their tokens."""
    return {
        TURNS: torch.tensor([completion.turns for completion in flat], dtype=torch.int64),
        EARNED: torch.tensor([completion.earned for completion in flat], dtype=torch.float32),
        SPOKEN: [list(completion.spoken) for completion in flat],
        **heard_fields((len(completion.tokens), completion.heard) for completion in flat),
    }


def fault(tokens: Sequence[int], logprobs: Sequence[float | None] | None, most: int) -> str:
    """What is wrong with the tokens of a completion and their log-probabilities, "" if nothing is.

    logprobs: None where none were asked for.
    """
    if not 1 <= len(tokens) <= most:
        return f"{len(tokens)} tokens where 1 to {most} were asked for"
    if any(token < 0 for token in tokens):
        return f"the token id {min(tokens)}"
    if logprobs is None:
        return ""
    if len(logprobs) != len(tokens):
        return f"{len(logprobs)} log-probabilities for {len(tokens)} tokens"
    for at, value in enumerate(logprobs):
        if value is None or not math.isfinite(value) or value > _ROUNDING:
            return f"the log-probability {value} for token {at}"
    return ""
