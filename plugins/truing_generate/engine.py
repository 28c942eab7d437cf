"""The engine: samples from a model in this process, with weights that come from the one that learns.

    prompts --prefill--> keys, values and first logits, once a prompt
                              |  a completion takes a seat as soon as one is free
                              v
                         [ seats ]  one token for every seat at a time; who ends leaves its seat

A completion is drawn with numbers of its own (`Seeds`), so which others sit beside it changes it no more than the
rounding of a matrix product does. The model is a copy: `sync_weights` writes into it and builds nothing anew, and the
one that learns may go on meanwhile. What a completion listens to, one model or two, is told in `voices`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from truing.errors import RunFailed
from truing.fields import Batch
from truing.run import Run, Stopped
from truing.stage import Weights
from truing_generate import plugin
from truing_generate.completions import Completion, Seeds, completed, prompts
from truing_generate.endings import Endings
from truing_generate.sampling import Drawn, Sampler
from truing_generate.voices import Sample, Talk, Voice, Voices
from truing_tensor.machine import bf16_is_faster, keep_freed_memory


class Engine:
    """Samples completions from a copy of the model that learns, and an opponent's from its reference."""

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
        others = spec.temperature if spec.opponent_temperature is None else spec.opponent_temperature
        self._opponents = Sampler(others, spec.top_k, spec.top_p, spec.min_p)
        self._seeds = Seeds(run, spec.samples + spec.opponents)
        self._version = -1

    async def sync_weights(self, weights: Weights) -> None:
        """Sample from these weights from now on; the first call loads the models they belong to."""
        await self._run.on_device(self._take, weights)

    async def generate(self, batch: Batch) -> Batch:
        """The batch with the completions of its prompts. Raises RunFailed before the first weights, and Stopped."""
        if self._version < 0:
            raise RunFailed("the engine was asked to generate before it was given any weights")
        seeds = self._seeds.draw(batch, self._version)
        groups = await self._run.on_device(self._complete, prompts(batch), seeds)
        return completed(batch, groups, self._spec.provides())

    def _take(self, weights: Weights) -> None:
        if self._version < 0:
            self._load(weights)
        self._voices.policy.take(weights)
        self._version = weights.version

    def _load(self, weights: Weights) -> None:
        from transformers import AutoTokenizer

        mixture = self._spec.mixture if self._spec.opponents else 0.0
        self._voices = Voices(weights, mixture, lambda origin: Voice(origin, self._dtype, self._device))
        tokenizer: Any = AutoTokenizer.from_pretrained(weights.origin)
        self._endings = Endings(tokenizer, self._voices.policy.model, self._spec.stop, self._spec.max_new_tokens)

    @torch.inference_mode()
    def _complete(self, texts: list[list[int]], seeds: list[list[int]]) -> list[list[Completion]]:
        """The completions of every prompt, each drawn from its own seeds: the policy's, then the opponent's."""
        own = self._spec.samples
        samples = [
            [Sample(group, number >= own, self._numbers(seed)) for number, seed in enumerate(some)]
            for group, some in enumerate(seeds)
        ]
        queues = [Queue(sample for some in samples for sample in some[part]) for part in (slice(own), slice(own, None))]
        seats = shares(self._most, [len(queue.waiting) for queue in queues])
        talk = self._voices.talk(texts, (own, self._spec.opponents), seats)
        while True:
            if self._run.stop:
                raise Stopped
            for queue, most in zip(queues, seats, strict=True):
                self._fill(queue, most, talk)
            talk.close_ranks()
            if not talk.busy:
                return [[self._completion(sample) for sample in some] for some in samples]
            for sample in self._add(*talk.step()):
                talk.over(sample)
                queues[sample.opponent].seated -= 1

    def _fill(self, queue: Queue, most: int, talk: Talk) -> None:
        """Give free seats to those who wait, their first token drawn."""
        while queue.waiting and queue.seated < most:
            sample = queue.waiting.popleft()
            if self._add([sample], talk.first(sample)[None]):
                talk.over(sample)
            else:
                talk.seat(sample)
                queue.seated += 1

    def _add(self, samples: Sequence[Sample], logits: Tensor) -> list[Sample]:
        """Draw the next token of each sample from its logits [seq, vocabulary]; gives those that it ends."""
        uniform = torch.stack([sample.uniform[len(sample.tokens)] for sample in samples]).to(self._device)
        drawn: Drawn = self._sampler(logits, uniform)
        if self._opponents != self._sampler and any(sample.opponent for sample in samples):
            apart = torch.tensor([sample.opponent for sample in samples], device=self._device)
            both = zip(self._opponents(logits, uniform), drawn, strict=True)
            drawn = Drawn(*(torch.where(apart, theirs, own) for theirs, own in both))
        for sample, *found in zip(samples, *(part.tolist() for part in drawn), strict=True):
            token, logprob, sampled = found
            sample.tokens.append(token)
            sample.logprobs.append(logprob)
            sample.sampled.append(sampled)
            sample.finish, sample.text = self._endings(sample.tokens)
        return [sample for sample in samples if sample.finish]

    def _numbers(self, seed: int) -> Tensor:
        return torch.rand(self._spec.max_new_tokens, generator=torch.Generator().manual_seed(seed))

    def _completion(self, sample: Sample) -> Completion:
        text = sample.text or self._endings.text(sample.tokens)
        return Completion(
            text, sample.tokens, sample.finish, self._version, sample.logprobs, sample.sampled, sample.opponent
        )


class Queue:
    """Completions of one kind: those that wait for a seat, and how many have one."""

    def __init__(self, samples: Iterator[Sample]) -> None:
        self.waiting = deque(samples)
        self.seated = 0


def shares(most: int, waiting: Sequence[int]) -> tuple[int, int]:
    """Seats for the policy's completions and for the opponent's, by how many there are of each, and at least one: so
    both go through the prompts side by side, and a prompt's keys are not kept long."""
    own, others = waiting
    if own + others <= most:
        return own, others
    second = min(max(1, round(most * others / (own + others))), max(1, most - 1)) if others else 0
    return max(1, most - second), second
