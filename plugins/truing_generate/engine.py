"""The engine: samples from a model in this process, with weights that come from the one that learns.

    prompts --prefill--> keys, values and first logits, once a prompt
                              |  a completion takes a seat as soon as one is free
                              v
                         [ seats ]  one token for every seat at a time; who ends leaves its seat

A completion is drawn with numbers of its own (`Seeds`), so which others sit beside it changes it no more than the
rounding of a matrix product does. The model is a copy: `sync_weights` writes into it and builds nothing anew, and the
one that learns may go on meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from truing.errors import Problem, RunFailed, UserError
from truing.fields import IDS, Batch
from truing.run import Run, Stopped
from truing.stage import Weights
from truing_generate import plugin
from truing_generate.cache import Decode, Prefill, Prompt, Seats
from truing_generate.completions import Completion, Seeds, completed, prompts
from truing_generate.endings import Endings
from truing_generate.sampling import Drawn, Sampler
from truing_tensor.decoder import Decoder, plain_head
from truing_tensor.machine import bf16_is_faster, keep_freed_memory
from truing_tensor.spans import prompt_plans

_PREFILL = 2048
"""tokens of prompts that go through the model at once"""
_FULL = 0.75
"""seats are given up when fewer than this share of them is taken and nobody waits"""


@dataclass
class Asked:
    """A prompt under way: its keys and values, and the logits [vocabulary] of its first token."""

    prompt: Prompt
    logits: Tensor
    left: int
    """completions that are not over"""


@dataclass
class Sample:
    """A completion under way. uniform [token]: the numbers that decide its draws."""

    group: int
    uniform: Tensor
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    sampled: list[float] = field(default_factory=list[float])
    finish: str = ""
    text: str = ""


class Engine:
    """Samples completions from a copy of the model that learns."""

    def __init__(self, spec: plugin.Engine, run: Run) -> None:
        keep_freed_memory()
        self._spec = spec
        self._run = run
        cuda = torch.cuda.is_available() and spec.device != "cpu"
        self._device = torch.device("cuda" if cuda else "cpu")
        bf16 = spec.dtype == "bf16" or (spec.dtype == "auto" and bf16_is_faster(self._device.type))
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._most = spec.seats or (256 if cuda else 64)
        self._sampler = Sampler(spec.temperature, spec.top_k, spec.top_p, spec.min_p)
        self._seeds = Seeds(run, spec.samples)
        self._version = -1

    async def sync_weights(self, weights: Weights) -> None:
        """Sample from these weights from now on; the first call loads the model they belong to."""
        await self._run.on_device(self._take, weights)

    async def generate(self, batch: Batch) -> Batch:
        """The batch with the completions of its prompts. Raises RunFailed before the first weights, and Stopped."""
        if self._version < 0:
            raise RunFailed("the engine was asked to generate before it was given any weights")
        seeds = self._seeds.draw(batch[IDS], self._version)
        groups = await self._run.on_device(self._complete, prompts(batch), seeds)
        return completed(batch, groups, self._spec.provides())

    def _take(self, weights: Weights) -> None:
        if self._version < 0:
            self._load(weights.origin)
        own = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, value in weights.tensors():
                if name in own:
                    own.pop(name).copy_(value)
        # A head that is tied to the embeddings has no name of its own.
        if own:
            raise RunFailed(
                f"weights of version {weights.version} lack {', '.join(sorted(own)[:3])} of {weights.origin}"
            )
        self._version = weights.version

    def _load(self, origin: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model: Any = AutoModelForCausalLM.from_pretrained(origin, dtype=self._dtype, use_safetensors=True)
        self._model = model.to(self._device).eval().requires_grad_(False)
        try:
            if plain_head(self._model) is None:
                raise ValueError("it does more to its logits than one matrix product")
            self._decoder = Decoder(self._model)
        except ValueError as error:
            what = f'generator "engine" cannot sample from {origin}: {error}'
            raise UserError(Problem("[generator]", what, 'serve it and write use = "openai"')) from None
        tokenizer: Any = AutoTokenizer.from_pretrained(origin)
        self._endings = Endings(tokenizer, self._model, self._spec.stop, self._spec.max_new_tokens)

    @torch.inference_mode()
    def _complete(self, texts: list[list[int]], seeds: list[list[int]]) -> list[list[Completion]]:
        """The completions of every prompt, each drawn from its own seeds."""
        samples = [[Sample(group, self._numbers(seed)) for seed in some] for group, some in enumerate(seeds)]
        waiting = deque(sample for some in samples for sample in some)
        asked: dict[int, Asked] = {}
        prefilled = self._prefill(texts)
        seats = Seats(0)
        taken: list[Sample | None] = []
        while True:
            if self._run.stop:
                raise Stopped
            taken, seats = self._seat(taken, seats, waiting, asked, prefilled)
            if not any(taken):
                return [[self._completion(sample) for sample in some] for some in samples]
            self._step(taken, seats, asked)

    def _seat(
        self,
        taken: list[Sample | None],
        seats: Seats,
        waiting: deque[Sample],
        asked: dict[int, Asked],
        prefilled: Iterator[Asked],
    ) -> tuple[list[Sample | None], Seats]:
        """Give free seats to those who wait, their first token drawn; give seats up when too many stay free."""
        if not taken:
            count = min(self._most, len(waiting))
            taken, seats = [None] * count, Seats(count)
        for seat, sample in enumerate(taken):
            if sample is not None and not sample.finish:
                continue
            taken[seat] = None
            while waiting and taken[seat] is None:
                sample = waiting.popleft()
                if sample.group not in asked:
                    asked[sample.group] = next(prefilled)
                self._add(asked[sample.group].logits[None], [sample], asked)
                taken[seat] = None if sample.finish else sample
        active = [seat for seat, sample in enumerate(taken) if sample is not None]
        if len(active) < _FULL * len(taken):
            reach = max((len(sample.tokens) for sample in taken if sample), default=1) - 1
            seats.keep(torch.tensor(active, dtype=torch.int64, device=self._device), reach)
            taken = [taken[seat] for seat in active]
        return taken, seats

    def _step(self, taken: list[Sample | None], seats: Seats, asked: dict[int, Asked]) -> None:
        """One token for every seat that is taken."""
        here = [(seat, sample) for seat, sample in enumerate(taken) if sample is not None]
        of_prompt: dict[int, list[int]] = {}
        for seat, sample in here:
            of_prompt.setdefault(sample.group, []).append(seat)
        places, tokens, positions = ([0] * len(taken) for _ in range(3))
        for seat, sample in here:
            places[seat] = len(sample.tokens) - 1
            tokens[seat] = sample.tokens[-1]
            positions[seat] = asked[sample.group].prompt.length + places[seat]
        shared = [(asked[group].prompt, mine) for group, mine in of_prompt.items()]
        attend = Decode.of(seats, shared, places).to(self._device)
        device = self._device
        hidden = self._decoder(torch.tensor(tokens, device=device), torch.tensor(positions, device=device), attend)
        rows = [seat for seat, _ in here]
        logits = self._logits(hidden if len(rows) == len(taken) else hidden[rows])
        self._add(logits, [sample for _, sample in here], asked)

    def _add(self, logits: Tensor, samples: Sequence[Sample], asked: dict[int, Asked]) -> None:
        """Draw the next token of each sample from its logits [seq, vocabulary], and see whether that ends it. A prompt
        all of whose completions are over is given up."""
        uniform = torch.stack([sample.uniform[len(sample.tokens)] for sample in samples]).to(self._device)
        drawn: Drawn = self._sampler(logits, uniform)
        for sample, *found in zip(samples, *(part.tolist() for part in drawn), strict=True):
            token, logprob, sampled = found
            sample.tokens.append(token)
            sample.logprobs.append(logprob)
            sample.sampled.append(sampled)
            sample.finish, sample.text = self._endings(sample.tokens)
            if sample.finish:
                asked[sample.group].left -= 1
                if not asked[sample.group].left:
                    del asked[sample.group]

    def _prefill(self, texts: list[list[int]]) -> Iterator[Asked]:
        """Prompts through the model, several in one row, when they are needed."""
        start = 0
        while start < len(texts):
            stop, used = start, 0
            while stop < len(texts) and (stop == start or used + len(texts[stop]) <= _PREFILL):
                used += len(texts[stop])
                stop += 1
            lengths = [len(text) for text in texts[start:stop]]
            held = [Prompt(length) for length in lengths]
            every, ends = (plan.to(self._device) for plan in prompt_plans(lengths))
            tokens = torch.tensor([token for text in texts[start:stop] for token in text], device=self._device)
            positions = torch.cat([torch.arange(length) for length in lengths]).to(self._device)
            # Of the last layer only the ends are computed; its keys and values are kept all the same.
            hidden = self._decoder(tokens, positions, Prefill(every, held), Prefill(ends, held))
            yield from (Asked(*pair, self._spec.samples) for pair in zip(held, self._logits(hidden), strict=True))
            start = stop

    def _logits(self, hidden: Tensor) -> Tensor:
        return hidden.to(self._dtype) @ self._model.get_output_embeddings().weight.T

    def _numbers(self, seed: int) -> Tensor:
        return torch.rand(self._spec.max_new_tokens, generator=torch.Generator().manual_seed(seed))

    def _completion(self, sample: Sample) -> Completion:
        text = sample.text or self._endings.text(sample.tokens)
        return Completion(text, sample.tokens, sample.finish, self._version, sample.logprobs, sample.sampled)
