"""The one or two models that a completion is drawn from, and what they have under way.

    Voice   a copy of a model
    Table   its prompts and its seats: a completion has a seat at the table of every voice that it listens to
    Talk    the tables together: the logits of the next token of everybody

The policy's completions listen to the policy. Those of the opponent listen to the reference, or to both: then a token
is drawn from the geometric mixture pi^(1 - m) ref^m / Z, the logits' weighted mean, at every token by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from truing.errors import Problem, RunFailed, UserError
from truing.stage import Weights
from truing_generate.cache import Decode, Prefill, Prompt, Seats
from truing_generate.endings import GOES_ON, Ending
from truing_generate.turns import Rollout
from truing_tensor.building import ONE_AT_A_TIME
from truing_tensor.decoder import Decoder, plain_head
from truing_tensor.machine import computes_in_bf16
from truing_tensor.spans import prompt_plans

_PREFILL = 2048
"""tokens of prompts that go through a model at once"""
_FULL = 0.75
"""seats are given up when fewer than this share of them is taken and nobody waits"""


@dataclass(eq=False)
class Sample:
    """A completion under way. uniform [token]: the numbers that decide its draws. row: its tokens and what it heard in
    their place, of which the first `read` have gone through the model; turn: where among its tokens its turn began.
    waits: for the answer to its turn."""

    group: int
    opponent: bool
    uniform: Tensor
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    sampled: list[float] = field(default_factory=list[float])
    ending: Ending = GOES_ON
    row: list[int] = field(default_factory=list[int])
    read: int = 0
    turn: int = 0
    waits: bool = False
    rollout: Rollout | None = None


class Voice:
    """A copy of a model. dtype: "fp32", "bf16" or "auto". Raises UserError for one that cannot be sampled from here."""

    def __init__(self, origin: str, dtype: str, device: torch.device) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        self.origin = origin
        self.device = device
        try:
            config: Any = AutoConfig.from_pretrained(origin, trust_remote_code=False)
            width = config.get_text_config().hidden_size
            self._dtype = torch.bfloat16 if computes_in_bf16(dtype, device.type, width) else torch.float32
            with ONE_AT_A_TIME:
                model: Any = AutoModelForCausalLM.from_pretrained(
                    origin, dtype=self._dtype, use_safetensors=True, trust_remote_code=False
                )
            self.model = model.to(device).eval().requires_grad_(False)
            if plain_head(self.model) is None:
                raise ValueError("it does more to its logits than one matrix product")
            self.decode = Decoder(self.model)
        except ValueError as error:
            what = f'generator "engine" cannot sample from {origin}: {str(error).splitlines()[0]}'
            raise UserError(Problem("[generator]", what, 'serve it and write use = "openai"')) from None

    @property
    def vocabulary(self) -> int:
        """How many logits it gives."""
        return len(self.model.get_output_embeddings().weight)

    def take(self, weights: Weights) -> None:
        """Speak with these weights from now on. Raises RunFailed if they lack a tensor."""
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in weights.tensors():
                if name in own:
                    own.pop(name).copy_(value)
        # A head that is tied to the embeddings has no name of its own.
        if own:
            raise RunFailed(
                f"weights of version {weights.version} lack {', '.join(sorted(own)[:3])} of {weights.origin}"
            )

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [row, vocabulary] of hidden states [row, width]."""
        return hidden.to(self._dtype) @ self.model.get_output_embeddings().weight.T

    def prefill(self, texts: Sequence[list[int]]) -> Iterator[tuple[Prompt, Tensor]]:
        """Prompts through the model, several in one row, when they are needed; with each the logits [vocabulary] of the
        token that follows. One that begins or continues the one before it is computed with it."""
        start = 0
        while start < len(texts):
            rows = nested(texts[start:], _PREFILL)
            longest = [max(row, key=len) for row in rows]
            held = [Prompt(len(text)) for text in longest]
            plans = prompt_plans([[len(text) for text in row] for row in rows])
            every, ends = (plan.to(self.device) for plan in plans)
            tokens = torch.tensor([token for text in longest for token in text], device=self.device)
            positions = torch.cat([torch.arange(len(text)) for text in longest]).to(self.device)
            # Of the last layer only the ends are computed; its keys and values are kept all the same.
            hidden = self.decode(tokens, positions, Prefill(every, held), Prefill(ends, held))
            begun = [whole.beginning(len(text)) for whole, row in zip(held, rows, strict=True) for text in row]
            yield from zip(begun, self.logits(hidden), strict=True)
            start += len(begun)


def nested(texts: Sequence[list[int]], most: int) -> list[list[list[int]]]:
    """The first of these texts, in their order, those together of which each begins or continues the one before it; so
    many as have `most` tokens where what they share counts once, and one at least."""
    rows: list[list[list[int]]] = []
    used, longest = 0, list[int]()
    for text in texts:
        short = min(len(text), len(longest))
        together = bool(rows) and text[:short] == longest[:short]
        more = max(0, len(text) - len(longest)) if together else len(text)
        if rows and used + more > most:
            break
        used += more
        if together:
            rows[-1].append(text)
            longest = max(longest, text, key=len)
        else:
            rows.append([text])
            longest = text
    return rows


@dataclass
class Asked:
    """A prompt under way: its keys and values, the logits [vocabulary] of its first token, and how many of its
    completions are not over."""

    prompt: Prompt
    logits: Tensor
    left: int


class Table:
    """What a voice has under way. texts: the prompts, in the order in which they are asked. each: completions of a
    prompt that listen to it. seats: how many of them at a time."""

    def __init__(self, voice: Voice, texts: Sequence[list[int]], each: int, seats: int) -> None:
        self._voice = voice
        self._prompts = voice.prefill(texts)
        self._each = each
        self._asked: dict[int, Asked] = {}
        self._taken: list[Sample | None] = [None] * seats
        self._seats = Seats(seats)

    @property
    def busy(self) -> bool:
        """Whether somebody has a seat and speaks."""
        return any(sample and not sample.waits for sample in self._taken)

    def first(self, sample: Sample) -> Tensor:
        """The logits [vocabulary] of a completion's first token."""
        if sample.group not in self._asked:
            self._asked[sample.group] = Asked(*next(self._prompts), self._each)
        return self._asked[sample.group].logits

    def seat(self, sample: Sample) -> None:
        """Give a completion a free seat."""
        self._taken[self._taken.index(None)] = sample

    def over(self, sample: Sample) -> None:
        """A completion is over. A prompt all of whose completions are over is given up."""
        if sample in self._taken:
            self._taken[self._taken.index(sample)] = None
        asked = self._asked[sample.group]
        asked.left -= 1
        if not asked.left:
            del self._asked[sample.group]

    def close_ranks(self) -> None:
        """Give seats up when too many are free."""
        active = [seat for seat, sample in enumerate(self._taken) if sample is not None]
        if len(active) < _FULL * len(self._taken):
            reach = max((sample.read for sample in self._taken if sample), default=0)
            self._seats.keep(torch.tensor(active, dtype=torch.int64, device=self._voice.device), reach)
            self._taken = [self._taken[seat] for seat in active]

    def step(self) -> tuple[list[Sample], Tensor]:
        """Who speaks, and the logits [seat, vocabulary] of what follows the next token of each that was not read."""
        here = [(seat, sample) for seat, sample in enumerate(self._taken) if sample and not sample.waits]
        of_prompt: dict[int, list[int]] = {}
        for seat, sample in here:
            of_prompt.setdefault(sample.group, []).append(seat)
        places, tokens, positions = ([0] * len(self._taken) for _ in range(3))
        for seat, sample in enumerate(self._taken):
            # Who waits keeps what is in its seat: what is written there now is written over by what it reads next.
            places[seat] = sample.read if sample else 0
        for seat, sample in here:
            tokens[seat] = sample.row[sample.read]
            positions[seat] = self._asked[sample.group].prompt.length + places[seat]
        shared = [(self._asked[group].prompt, mine) for group, mine in of_prompt.items()]
        device = self._voice.device
        attend = Decode.of(self._seats, shared, places).to(device)
        hidden = self._voice.decode(torch.tensor(tokens, device=device), torch.tensor(positions, device=device), attend)
        rows = [seat for seat, _ in here]
        logits = self._voice.logits(hidden if len(rows) == len(self._taken) else hidden[rows])
        return [sample for _, sample in here], logits


class Voices:
    """The policy, and the reference if anybody listens to it. mixture: how much the opponent does."""

    def __init__(self, weights: Weights, mixture: float, copy: Callable[[str], Voice]) -> None:
        self.policy = copy(weights.origin)
        self._mixture = mixture
        self._reference: Voice | None = None
        if mixture:
            held_to = weights.reference()
            self._reference = copy(held_to.origin)
            self._reference.take(held_to)
            self._compare(self._reference)

    def talk(self, texts: Sequence[list[int]], each: tuple[int, int], seats: tuple[int, int]) -> Talk:
        """Begin to complete prompts. each, seats: of the policy's completions and of the opponent's, how many there are
        of a prompt, and how many have a seat at a time."""
        if self._reference is None:
            return Talk([Table(self.policy, texts, sum(each), sum(seats))], 0.0)
        apart = self._mixture == 1
        own = Table(self.policy, texts, each[0] if apart else sum(each), seats[0] if apart else sum(seats))
        return Talk([own, Table(self._reference, texts, each[1], seats[1])], self._mixture)

    def _compare(self, reference: Voice) -> None:
        """Raises UserError for a reference that gives other logits."""
        if reference.vocabulary != self.policy.vocabulary:
            what = f"{reference.origin} gives {reference.vocabulary} logits and {self.policy.origin} gives "
            mend = "name a reference with a vocabulary of the same size, or set opponents = 0"
            raise UserError(Problem("[generator]", f"{what}{self.policy.vocabulary}", mend))


class Talk:
    """Completions under way. tables: the policy's, and the reference's if anybody listens to it."""

    def __init__(self, tables: Sequence[Table], mixture: float) -> None:
        self._tables = tables
        self._mixture = mixture
        self._opponents = tables[1:] if mixture == 1 else tables

    @property
    def busy(self) -> bool:
        """Whether somebody has a seat and speaks."""
        return any(table.busy for table in self._tables)

    def first(self, sample: Sample) -> Tensor:
        """The logits [vocabulary] of a completion's first token."""
        said = [table.first(sample) for table in self._heard(sample)]
        return said[0] if len(said) == 1 else self._mixed(*said)

    def seat(self, sample: Sample) -> None:
        """Give a completion its seats."""
        for table in self._heard(sample):
            table.seat(sample)

    def over(self, sample: Sample) -> None:
        """A completion is over: its seats are free."""
        for table in self._heard(sample):
            table.over(sample)

    def close_ranks(self) -> None:
        """Give seats up where too many are free."""
        for table in self._tables:
            table.close_ranks()

    def step(self) -> tuple[list[Sample], Tensor]:
        """Who is to say its next token, and the logits [seq, vocabulary] of each; nobody while all of them read."""
        samples, logits = self._step()
        for sample in samples:
            sample.read += 1
        ready = [at for at, sample in enumerate(samples) if sample.read == len(sample.row)]
        return ([samples[at] for at in ready], logits[ready]) if len(ready) < len(samples) else (samples, logits)

    def _step(self) -> tuple[list[Sample], Tensor]:
        said = [table.step() for table in self._tables if table.busy]
        if len(said) == 1:
            return said[0]
        (samples, logits), (others, of_reference) = said
        if self._mixture == 1:
            return [*samples, *others], torch.cat([logits, of_reference])
        place = {sample: at for at, sample in enumerate(samples)}
        at = [place[sample] for sample in others]
        mixed = logits.float()
        mixed[at] = self._mixed(logits[at], of_reference)
        return samples, mixed

    def _heard(self, sample: Sample) -> Sequence[Table]:
        return self._opponents if sample.opponent else self._tables[:1]

    def _mixed(self, policy: Tensor, reference: Tensor) -> Tensor:
        """Logits of the geometric mixture: what normalises either is the same for all tokens, and goes away."""
        return policy.float().lerp(reference.float(), self._mixture)
