"""The engine: samples from a model in this process, with weights that come from the one that learns.

    prompts --prefill--> keys, values and first logits, once a prompt
                              |  a completion takes a seat as soon as one is free
                              v
                         [ seats ]  one token for every seat at a time; who ends leaves its seat

A completion is drawn with numbers of its own (`Seeds`), so which others sit beside it changes it no more than the
rounding of a matrix product does. The model is a copy: `sync_weights` writes into it and builds nothing anew, and the
one that learns may go on meanwhile. What a completion listens to, one model or two, is told in `voices`.

Where an environment answers, who ends a turn keeps its seat, with all that is computed, and waits. When nobody speaks
any more all are answered; the answers are read token by token beside those who speak. New weights wait until the last
is over, so a completion is of one version whatever its environment takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import anyio
import torch
from torch import Tensor

from truing.errors import RunFailed
from truing.fields import Batch
from truing.run import Run, Stopped, gathered
from truing.stage import Said, Weights
from truing_generate import plugin
from truing_generate.completions import Completion, Seeds, Wanted, completed, prompts
from truing_generate.endings import Endings
from truing_generate.sampling import Drawn, Sampler
from truing_generate.turns import Hearing, Scene
from truing_generate.voices import Sample, Talk, Voice, Voices
from truing_tensor.machine import keep_freed_memory, let_go_of_freed_memory
from truing_texts.chat import Chat


class Engine:
    """Samples completions from a copy of the model that learns, and an opponent's from its reference."""

    def __init__(self, spec: plugin.Engine, run: Run) -> None:
        keep_freed_memory()
        self._spec = spec
        self._run = run
        cuda = torch.cuda.is_available() and spec.device != "cpu"
        self._device = torch.device("cuda" if cuda else "cpu")
        self._most = spec.seats or (256 if cuda else 64)
        self._sampler = Sampler(spec.temperature, spec.top_k, spec.top_p, spec.min_p)
        others = spec.temperature if spec.opponent_temperature is None else spec.opponent_temperature
        self._opponents = Sampler(others, spec.top_k, spec.top_p, spec.min_p)
        self._seeds = Seeds(run)
        self._scene = Scene.of(spec, run)
        self._talking = anyio.Lock()
        self._version = -1

    async def sync_weights(self, weights: Weights) -> None:
        """Sample from these weights from now on; the first call loads the models they belong to."""
        async with self._talking:
            await self._run.on_device(self._take, weights)

    async def generate(self, batch: Batch) -> Batch:
        """The batch with the completions of its prompts. Raises RunFailed before the first weights and for an
        environment that fails, and Stopped."""
        async with self._talking:
            if self._version < 0:
                raise RunFailed("the engine was asked to generate before it was given any weights")
            wanted = Wanted.of(batch, self._spec.samples, self._spec.opponents, self._spec.temperature)
            seeds = self._seeds.draw(batch, self._version, wanted.samples + wanted.opponents)
            samples = [
                [Sample(group, number >= wanted.samples, self._numbers(seed)) for number, seed in enumerate(some)]
                for group, some in enumerate(seeds)
            ]
            under_way = await self._run.on_device(self._begin, prompts(batch), samples, wanted)
            if self._scene is None:
                await self._run.on_device(self._speak, under_way)
            else:
                async with self._scene.rollouts(batch, seeds, self._hearing) as rollouts:
                    for some, theirs in zip(samples, rollouts, strict=True):
                        for sample, rollout in zip(some, theirs, strict=True):
                            sample.rollout = rollout
                    await self._in_turns(under_way)
            groups = [[self._completion(sample) for sample in some] for some in samples]
        return completed(batch, groups, self._spec.provides())

    async def _in_turns(self, under_way: UnderWay) -> None:
        """Let all speak, and those answer who are to, until everybody is through."""
        while waiting := await self._run.on_device(self._speak, under_way):
            await gathered([partial(self._answer, under_way, sample) for sample in waiting])

    async def _answer(self, under_way: UnderWay, sample: Sample) -> None:
        """Hand a turn over; its sample reads the answer next, or is over."""
        assert sample.rollout
        said = Said(self._text(sample), sample.ending.stop)
        room = self._spec.max_new_tokens - len(sample.tokens)
        heard = await sample.rollout.answered(said, len(sample.tokens), room)
        sample.waits = False
        if heard is None:
            under_way.over(sample)
            return
        sample.row += heard
        sample.turn = len(sample.tokens)

    def _take(self, weights: Weights) -> None:
        if self._version < 0:
            self._load(weights)
        self._voices.policy.take(weights)
        self._version = weights.version

    def _load(self, weights: Weights) -> None:
        from transformers import AutoTokenizer

        mixture = self._spec.mixture if self._spec.opponents else 0.0
        self._voices = Voices(weights, mixture, lambda origin: Voice(origin, self._spec.dtype, self._device))
        tokenizer: Any = AutoTokenizer.from_pretrained(weights.origin, trust_remote_code=False)
        self._endings = Endings(tokenizer, self._voices.policy.model, self._spec.ends(), self._spec.max_new_tokens)
        if self._scene:
            self._hearing = Hearing.of(Chat(weights.origin, "[generator.environment]"), self._endings.ends)
        let_go_of_freed_memory()

    def _begin(self, texts: list[list[int]], samples: list[list[Sample]], wanted: Wanted) -> UnderWay:
        """A table for the completions of every prompt: the policy's, then the opponent's."""
        own, others, temperature = wanted
        queues = [Queue(sample for some in samples for sample in some[part]) for part in (slice(own), slice(own, None))]
        seats = shares(self._most, [len(queue.waiting) for queue in queues])
        sampler = replace(self._sampler, temperature=temperature)
        return UnderWay(self._voices.talk(texts, (own, others), seats), queues, seats, sampler)

    @torch.inference_mode()
    def _speak(self, under_way: UnderWay) -> list[Sample]:
        """Draw tokens until nobody has any more to say: those whose turns are to be answered, or none. Raises
        Stopped."""
        talk = under_way.talk
        while True:
            if self._run.stop:
                raise Stopped
            for queue, most in zip(under_way.queues, under_way.seats, strict=True):
                self._fill(queue, most, under_way)
            talk.close_ranks()
            if not talk.busy:
                waiting, under_way.waiting = under_way.waiting, []
                return waiting
            for sample in self._add(under_way.sampler, *talk.step()):
                if sample.waits:
                    under_way.waiting.append(sample)
                else:
                    under_way.over(sample)

    def _fill(self, queue: Queue, most: int, under_way: UnderWay) -> None:
        """Give free seats to those who wait, their first token drawn."""
        while queue.waiting and queue.seated < most:
            sample = queue.waiting.popleft()
            ended = self._add(under_way.sampler, [sample], under_way.talk.first(sample)[None])
            if ended and not sample.waits:
                under_way.talk.over(sample)
                continue
            under_way.talk.seat(sample)
            queue.seated += 1
            under_way.waiting += ended

    def _add(self, sampler: Sampler, samples: Sequence[Sample], logits: Tensor) -> list[Sample]:
        """Draw the next token of each sample from its logits [seq, vocabulary]; gives those whose turn it ends."""
        if not samples:
            return []
        uniform = torch.stack([sample.uniform[len(sample.tokens)] for sample in samples]).to(self._device)
        drawn: Drawn = sampler(logits, uniform)
        if self._opponents != sampler and any(sample.opponent for sample in samples):
            apart = torch.tensor([sample.opponent for sample in samples], device=self._device)
            both = zip(self._opponents(logits, uniform), drawn, strict=True)
            drawn = Drawn(*(torch.where(apart, theirs, own) for theirs, own in both))
        for sample, *found in zip(samples, *(part.tolist() for part in drawn), strict=True):
            token, logprob, sampled = found
            sample.tokens.append(token)
            sample.row.append(token)
            sample.logprobs.append(logprob)
            sample.sampled.append(sampled)
            sample.ending = self._endings(sample.tokens[sample.turn :], sample.turn)
            sample.waits = sample.rollout is not None and sample.ending.finish in ("end", "stop")
        return [sample for sample in samples if sample.ending.finish]

    def _numbers(self, seed: int) -> Tensor:
        return torch.rand(self._spec.max_new_tokens, generator=torch.Generator().manual_seed(seed))

    def _text(self, sample: Sample) -> str:
        """What a sample said in its turn, without the stop string."""
        return sample.ending.text if sample.ending.stop else self._endings.text(sample.tokens[sample.turn :])

    def _completion(self, sample: Sample) -> Completion:
        assert sample.ending.finish
        plain = Completion(
            self._text(sample),
            sample.tokens,
            sample.ending.finish,
            self._version,
            sample.logprobs,
            sample.sampled,
            sample.opponent,
        )
        return sample.rollout.completion(plain) if sample.rollout else plain


class Queue:
    """Completions of one kind: those that wait for a seat, and how many have one."""

    def __init__(self, samples: Iterator[Sample]) -> None:
        self.waiting = deque(samples)
        self.seated = 0


@dataclass
class UnderWay:
    """What is sampled in one call. seats: of each queue, how many it may have. sampler: how the policy's tokens are
    drawn. waiting: who waits for an answer."""

    talk: Talk
    queues: Sequence[Queue]
    seats: Sequence[int]
    sampler: Sampler
    waiting: list[Sample] = field(default_factory=list[Sample])

    def over(self, sample: Sample) -> None:
        """A completion is over: its seat is free."""
        self.talk.over(sample)
        self.queues[sample.opponent].seated -= 1


def shares(most: int, waiting: Sequence[int]) -> tuple[int, int]:
    """Seats for the policy's completions and for the opponent's, by how many there are of each, and at least one: so
    both go through the prompts side by side, and a prompt's keys are not kept long."""
    own, others = waiting
    if own + others <= most:
        return own, others
    second = min(max(1, round(most * others / (own + others))), max(1, most - 1)) if others else 0
    return max(1, most - second), second
