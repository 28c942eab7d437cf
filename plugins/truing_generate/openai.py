"""Completions from a server that speaks the OpenAI protocol.

One request for each sample, because each has a seed of its own: a server that keeps prefixes computes the prompt once
all the same. Where an environment answers it is one for each turn, of all tokens so far. No more than `concurrency` of
them are under way at a time; one that waits to be sent again keeps its place, so a busy server is not asked more. They
end with the call that made them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import anyio
import anyio.to_thread

from truing.errors import Problem, RunFailed, UserError, first_cause
from truing.events import Notice
from truing.fields import IDS, PROMPTS, Batch, Text
from truing.run import Run
from truing.stage import Said, Weights
from truing_generate import answers, disk, plugin
from truing_generate.answers import Written
from truing_generate.completions import Completion, Seeds, Wanted, completed, prompts
from truing_generate.texts import Encoder, Pretrained
from truing_generate.turns import Hearing, Rollout, Scene
from truing_remote.http import Ask, Gone, Refused, Server
from truing_remote.protocol import Malformed, the_model, wrong
from truing_texts.chat import Chat

WHERE = '[generator] use = "openai"'
RESUME_SECONDS = 60.0
MENDS = {422: 'a server that does not know these fields may need tokens = "text"'}


class Draw(NamedTuple):
    """How a completion is drawn. room: the most tokens it may have."""

    seed: int
    temperature: float
    room: int


class OpenAi:
    """A generator behind an address."""

    def __init__(self, spec: plugin.OpenAi, run: Run) -> None:
        self.url = spec.url
        self._spec = spec
        self._run = run
        self._server = Server(
            spec.url, spec.key_env, where=WHERE, retries=spec.retries, timeout=spec.timeout, mends=MENDS
        )
        self._slots = anyio.CapacityLimiter(spec.concurrency)
        self._encoder: Encoder | None = (
            Pretrained(run.resolve(spec.tokenizer), WHERE) if spec.tokens == "text" else None
        )
        self._seeds = Seeds(run)
        self._scene = Scene.of(spec, run)
        self._chat: Chat | None = Chat(run.resolve(spec.tokenizer), WHERE) if self._scene else None
        self._version = 0
        self._model = spec.model
        self._meeting = anyio.Lock()
        self._said: set[str] = set()

    async def generate(self, batch: Batch) -> Batch:
        """Every prompt with its completions. Raises UserError for a server that is not there, refuses or is none of the
        kind the recipe says, RunFailed for one that stops to answer."""
        if self._encoder is not None:
            self._once("completions come as text and are encoded anew: their tokens may not be those that were sampled")
        wanted = Wanted.of(batch, self._spec.samples, temperature=self._spec.temperature)
        seeds = self._seeds.draw(batch, self._version, wanted.samples)
        repeats = self._server.repeats
        groups = await self.complete(batch, seeds, wanted)
        if self._server.repeats > repeats:
            count = self._server.repeats - repeats
            self._tell(f"{count} requests were sent again, the last because of: {self._server.trouble}")
        return self.batch(batch, groups, wanted)

    async def complete(self, batch: Batch, seeds: list[list[int]], wanted: Wanted) -> list[list[Completion]]:
        """The completions of every prompt, each drawn from its seed. Raises what `generate` does."""
        ids, heads = batch[IDS], prompts(batch)
        groups: list[list[Completion | None]] = [[None] * wanted.samples for _ in ids]

        async def sample(ask: Ask, at: int, number: int) -> None:
            draw = Draw(seeds[at][number], wanted.temperature, self._spec.max_new_tokens)
            if rollouts:
                groups[at][number] = await self._rollout(ask, heads[at], draw, rollouts[at][number])
            else:
                groups[at][number], _ = await self._sample(ask, ids[at], batch[PROMPTS][at], heads[at], draw)

        try:
            async with self._server.connected() as ask, self._rollouts(batch, seeds) as rollouts:
                await self._meet(ask)
                async with anyio.create_task_group() as tasks:
                    for at in range(len(ids)):
                        for number in range(wanted.samples):
                            tasks.start_soon(sample, ask, at, number)
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        return cast("list[list[Completion]]", groups)

    @asynccontextmanager
    async def _rollouts(self, batch: Batch, seeds: list[list[int]]) -> AsyncIterator[list[list[Rollout]]]:
        """The rollouts of all samples; none where nobody answers."""
        if self._scene is None or self._chat is None:
            yield []
            return
        async with self._scene.rollouts(batch, seeds, Hearing.of(self._chat, {self._chat.end})) as rollouts:
            yield rollouts

    async def _rollout(self, ask: Ask, head: Sequence[int], draw: Draw, rollout: Rollout) -> Completion:
        """A completion in turns, each a request of its own with a seed of its own."""
        row, whole = list(head), Completion("", [], "end", self._version)
        while True:
            room, task = draw.room - len(whole.tokens), rollout.task
            how = draw._replace(seed=draw.seed + rollout.turns, room=room)
            turn, stop = await self._sample(ask, task.id, task.prompt, row, how)
            whole = turn._replace(
                tokens=[*whole.tokens, *turn.tokens],
                version=whole.version,
                logprobs=[*whole.logprobs, *turn.logprobs],
                sampled=[*whole.sampled, *turn.sampled],
            )
            if turn.finish == "length":
                return rollout.completion(whole)
            said = Said(str(turn.text), stop)
            heard = await rollout.answered(said, len(whole.tokens), room - len(turn.tokens))
            if heard is None:
                return rollout.completion(whole)
            row += [*turn.tokens, *heard]

    def batch(self, batch: Batch, groups: list[list[Completion]], wanted: Wanted) -> Batch:
        """The batch with the completions of its prompts."""
        # `transformers serve`, for one, is greedy at any temperature unless the model's configuration says do_sample.
        several = wanted.temperature > 0 and wanted.samples > 1 and groups
        if several and all(len({tuple(completion.tokens) for completion in group}) == 1 for group in groups):
            self._once("all completions of each prompt are the same: it may not sample at all")
        return completed(batch, groups, self._spec.provides())

    async def sync_weights(self, weights: Weights) -> None:
        """Write the weights and let the server read them, its requests paused meanwhile. Raises UserError, RunFailed.

        A request that is under way keeps the tokens it has and goes on under the new weights.
        """
        if self._spec.sync == "none":
            self._once('the server keeps the model it has: sync = "none"')
            return
        written = await self.write(weights)
        await self.read(written, weights.version)
        await anyio.to_thread.run_sync(disk.keep_only, written)

    async def write(self, weights: Weights) -> Path:
        """Write weights where the server can read them; their folder."""
        # Two runs that share a folder do not share their weights.
        base = self._spec.sync_folder and f"{self._spec.sync_folder}/{self._run.folder.name}"
        folder = Path(base or self._run.folder / "sync").absolute()
        return await self._run.on_device(disk.write, weights, folder)

    async def read(self, written: Path, version: int) -> None:
        """Have the server read weights that were written."""
        async with self._server.connected() as ask:
            await self._reload(ask, str(written))
        self._version = version

    async def check(self) -> None:
        """Raises Absent and Gone where no server answers, or one that says it is not well."""
        try:
            async with self._server.connected() as ask:
                await ask("GET", "/health", patient=False)
        except Gone:
            raise
        except (Refused, RunFailed):
            return

    async def _reload(self, ask: Ask, folder: str) -> None:
        resumed = False
        try:
            await self._command(ask, "/pause?mode=keep")
            reload = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
            await self._command(ask, "/collective_rpc", reload, patient=False)
            # What was computed of prompts under the old weights must not be used under the new ones.
            reset = await self._command(ask, "/reset_prefix_cache?reset_running_requests=true")
            if isinstance(reset, dict) and reset.get("success") is False:
                raise RunFailed(f"{self._server.url} keeps what it computed under the old weights: {reset}")
            await self._command(ask, "/resume")
            resumed = True
        finally:
            if not resumed:
                with anyio.move_on_after(RESUME_SECONDS, shield=True):
                    try:
                        await self._command(ask, "/resume")
                    except (UserError, RunFailed) as error:
                        self._tell(f"the server may still be paused: {error}")

    async def _command(self, ask: Ask, path: str, body: Any = None, *, patient: bool = True) -> Any:
        try:
            return await ask("POST", path, body, patient=patient)
        except Refused as error:
            if error.status not in (404, 405):
                raise
            mend = "start vLLM with VLLM_SERVER_DEV_MODE=1 in its environment; only behind a firewall"
            raise UserError(Problem(WHERE, error.problems[0].what, mend)) from None

    async def _meet(self, ask: Ask) -> None:
        """Learn what the server calls its model, once, unless the recipe says it."""
        async with self._meeting:
            self._model = self._model or await the_model(self._server, ask)

    async def _sample(
        self, ask: Ask, name: str, prompt: Text, head: Sequence[int], draw: Draw
    ) -> tuple[Completion, str]:
        """A completion, or a turn of one; and the stop string that ended it."""
        try:
            async with self._slots:
                version = self._version
                if self._encoder is None:
                    written = await self._exact(ask, list(head), draw)
                else:
                    written = await self._text(ask, self._encoder, prompt, draw)
        except Malformed as error:
            raise wrong(self._server, error) from None
        except Refused as error:
            (problem,) = error.problems
            raise UserError(Problem(WHERE, f"prompt {name}: {problem.what}", problem.mend)) from None
        given = written.logprobs
        model = self._spec.samples_the_model or self._spec.logprobs == "raw_logprobs"
        sampled = self._spec.samples_the_model or self._spec.logprobs == "processed_logprobs"
        found = Completion(
            written.text, written.tokens, written.finish, version, given if model else (), given if sampled else ()
        )
        return found, written.ended_by

    async def _exact(self, ask: Ask, head: list[int], draw: Draw) -> Written:
        spec = self._spec
        wanted = spec.logprobs != "none"
        # Everything that a server would otherwise take from the model's generation_config.json is said.
        body = self._common(draw) | {
            "prompt": head,
            "return_token_ids": True,
            "top_k": spec.top_k or -1,
            "min_p": spec.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }
        answer = await ask("POST", "/v1/completions", body | {"logprobs": 0} if wanted else body)
        return answers.exact(answer, head, draw.room, wanted, bool(spec.ends()))

    async def _text(self, ask: Ask, encoder: Encoder, prompt: Text, draw: Draw) -> Written:
        body = self._common(draw)
        if isinstance(prompt, str):
            answer = await ask("POST", "/v1/completions", body | {"prompt": prompt})
        else:
            answer = await ask("POST", "/v1/chat/completions", body | {"messages": prompt})
        written = answers.text(answer, bool(self._spec.stop))
        tokens = encoder.encode(written.text + written.ended_by)
        return written._replace(tokens=[*tokens, encoder.end] if written.finish == "end" else tokens)

    def _common(self, draw: Draw) -> dict[str, Any]:
        spec = self._spec
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": draw.room,
            "temperature": draw.temperature,
            "top_p": spec.top_p,
            "seed": draw.seed,
        }
        return body | {"stop": ends} if (ends := spec.ends()) else body

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._tell(text)

    def _tell(self, text: str) -> None:
        self._run.bus.publish(Notice(text=f"{self._server.url}: {text}", phase=self._run.phase))
