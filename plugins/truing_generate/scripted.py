"""Completions that were written beforehand: a generator for tests of loops, scorers and whatever else comes after."""

from __future__ import annotations

from collections import Counter

import anyio

from truing.errors import Problem, RunFailed, UserError
from truing.fields import IDS, Batch
from truing.run import Run
from truing.stage import Said, Weights
from truing_generate import plugin
from truing_generate.completions import Completion, Finish, Seeds, Wanted, completed
from truing_generate.texts import Bytes, Encoder, Pretrained
from truing_generate.turns import Hearing, Rollout, Scene

WHERE = '[generator] use = "scripted"'


class Scripted:
    """Says its lines. `calls` counts how often it was asked, `versions` are those of the weights it was given."""

    def __init__(self, spec: plugin.Scripted, run: Run) -> None:
        self._spec = spec
        self._encoder: Encoder = Pretrained(run.resolve(spec.tokenizer), WHERE) if spec.tokenizer else Bytes()
        self._turn: Counter[str | None] = Counter()
        self._scene = Scene.of(spec, run)
        self._seeds = Seeds(run)
        self._version = 0
        self.calls = 0
        self.versions: list[int] = []

    async def generate(self, batch: Batch) -> Batch:
        """Every prompt with its lines. Raises RunFailed at the call that is to fail, UserError for want of a line."""
        self.calls += 1
        call, version = self.calls, self._version
        wanted = Wanted.of(batch, self._spec.samples, self._spec.opponents)
        if self._scene is None:
            groups = [self._group(name, version, wanted) for name in batch[IDS]]
        else:
            groups = await self._in_turns(self._scene, batch, version, wanted)
        await anyio.sleep(self._spec.delay)
        if call == self._spec.fail_at:
            raise RunFailed(f"call {call} of the scripted generator fails, as it was told to")
        return completed(batch, groups, self._spec.provides())

    async def sync_weights(self, weights: Weights) -> None:
        """Note the version; it has no weights."""
        self._version = weights.version
        self.versions.append(weights.version)

    async def _in_turns(self, scene: Scene, batch: Batch, version: int, wanted: Wanted) -> list[list[Completion]]:
        """Completions each turn of which is the next line."""
        hearing = Hearing(self._encoder.encode, None, [self._encoder.end])
        async with scene.rollouts(batch, self._seeds.draw(batch, version, wanted.samples), hearing) as rollouts:
            return [[await self._rollout(rollout, version) for rollout in some] for some in rollouts]

    async def _rollout(self, rollout: Rollout, version: int) -> Completion:
        whole = Completion("", [], "end", version)
        while True:
            room = self._spec.max_new_tokens - len(whole.tokens)
            text, tokens, finish, stop = self._written(self._line(rollout.task.id), room)
            logprobs = [self._spec.logprob] * (len(whole.tokens) + len(tokens))
            tokens = [*whole.tokens, *tokens]
            whole = whole._replace(text=text, tokens=tokens, finish=finish, logprobs=logprobs, sampled=logprobs)
            if finish == "length":
                return rollout.completion(whole)
            room = self._spec.max_new_tokens - len(tokens)
            if await rollout.answered(Said(text, stop), len(tokens), room) is None:
                return rollout.completion(whole)

    def _group(self, name: str, version: int, wanted: Wanted) -> list[Completion]:
        own = wanted.samples - self._spec.missing
        return [
            self._completion(self._line(name), version, opponent=number >= own)
            for number in range(own + wanted.opponents)
        ]

    def _line(self, name: str) -> str:
        """The next line of a prompt; those of `lines` are shared by all prompts that have none of their own."""
        own = self._spec.answers.get(name)
        lines = own or self._spec.lines
        if not lines:
            raise UserError(Problem(WHERE, f"nothing to say to the prompt {name}", "set lines, or answers for it"))
        whose = name if own else None
        turn = self._turn[whose]
        self._turn[whose] += 1
        return lines[turn % len(lines)]

    def _completion(self, line: str, version: int, *, opponent: bool) -> Completion:
        text, tokens, finish, _ = self._written(line, self._spec.max_new_tokens)
        logprobs = [self._spec.logprob] * len(tokens)
        return Completion(text, tokens, finish, version, logprobs, logprobs, opponent)

    def _written(self, line: str, room: int) -> tuple[str, list[int], Finish, str]:
        """Text, tokens and end of a line: at its first stop string, which comes last, at the longest length, or at its
        own end."""
        finish: Finish = "end"
        found = [(at, stop) for stop in self._spec.ends() if (at := line.find(stop)) >= 0]
        text, stop = line, ""
        if found:
            at, stop = min(found)
            text, line, finish = line[:at], line[: at + len(stop)], "stop"
        tokens = self._encoder.encode(line)
        if finish == "end":
            tokens = [*tokens, self._encoder.end]
        if len(tokens) > room:
            return self._encoder.decode(tokens[:room]), tokens[:room], "length", ""
        return text, tokens, finish, stop
