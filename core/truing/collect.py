"""A phase that makes data: what is sampled, scored and compared is written down, for a later phase to learn from.

    encode -> (generate) -> score -> compare -> rows

It goes through its source once. Each batch is kept as soon as it is there, so a resume goes on behind the last one, and
what is written is what an uninterrupted run would have written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any, cast

import msgspec

from truing.errors import RunFailed
from truing.events import DataSaved, GroupDropped, GroupWritten, PhaseStarted, StepDone, WaveAdmitted
from truing.fields import CHOSEN, COMPLETIONS, GROUP, IDS, PROMPTS, REJECTED, STEP_SEQ, Batch
from truing.journal import PhaseFolder
from truing.reading import next_of, open_source
from truing.recipe import Loop
from truing.run import Run, Stopped
from truing.sampling import Sampling, Stages, Wave, digest_of, numbers_of

Row = dict[str, Any]


async def collect(stages: Stages, loop: Loop, run: Run, folder: PhaseFolder) -> None:
    """Write groups down until the source is at its end. Raises RunFailed and UserError."""
    info = await open_source(stages.source, "source", run)
    steps = min(loop.steps or info.groups, math.ceil(info.groups / loop.batch))
    done = folder.batches()
    run.bus.publish(PhaseStarted(phase=run.phase, options=dict(stages.options), steps=steps, start=done))
    sampling = Sampling.of(stages, run, loop.failures)
    await sampling.publish()
    step = read = 0
    batches = stages.source.batches(loop.batch, 0)
    while raw := await next_of(batches, loop.failures.read_seconds):
        step, first, read = step + 1, read, read + len(raw[IDS])
        sampling.attempts.read = read
        if step > done:
            if run.stop:
                return
            try:
                metrics, batch = await _batch(sampling, step, first, raw)
            except Stopped:
                return
            if batch[IDS]:
                ids, digest = list(batch[IDS]), digest_of(batch)
                run.bus.publish(GroupWritten(phase=run.phase, step=step, wave=step, ids=ids, digest=digest))
            run.bus.publish(StepDone(phase=run.phase, step=step, steps=steps, epoch=0, metrics=metrics))
            # Last: what is written is not made again, and nothing more would be said of it after a crash.
            folder.add(msgspec.json.encode(rows_of(batch) if batch[IDS] else []))
        if step == steps:
            break
    path, groups = folder.finish()
    if not groups:
        error = sampling.attempts.last
        told = f"the last failed at {error}" if error else "the dropped ones are in events.jsonl"
        raise RunFailed(f"no group of {info.origin} was left to write down; {told}")
    run.bus.publish(DataSaved(phase=run.phase, path=str(path.resolve()), groups=groups))


async def _batch(sampling: Sampling, step: int, first: int, raw: Batch) -> tuple[dict[str, float], Batch]:
    """Sample and score one batch; numbers to report, and what is left of it. first: how many groups were read before
    it."""
    run, began = sampling.run, time.perf_counter()
    run.bus.publish(WaveAdmitted(phase=run.phase, wave=step, ids=list(raw[IDS])))
    encoded = await run.device.beside(sampling.stages.model.encode, sampling.text(raw))
    for group, reason in encoded.dropped:
        run.bus.publish(GroupDropped(phase=run.phase, id=group, reason=reason, wave=step))
    wave = Wave(step, first, encoded.batch)
    scored = await sampling.scored(await sampling.generated(wave), wave)
    batch = await sampling.compared(scored, wave)
    failed = len(encoded.batch[IDS]) - len(scored[IDS])
    counts = {"data/dropped": float(len(raw[IDS]) - len(batch[IDS]) - failed), "data/failed": float(failed)}
    if not batch[IDS]:
        return counts, batch
    return {**numbers_of(batch), "speed/sample_seconds": time.perf_counter() - began, **counts}, batch


def rows_of(batch: Batch) -> list[Row]:
    """A row for each group: `id`, `prompt`, `completions`, `pairs` of places among them, and by its name whatever else
    a batch has of groups, completions or pairs; of steps, a list for each completion.

    Tokens are left out: the texts are what another model can read, too.
    """
    group = _whole(batch[GROUP])
    place = {seq: group[:seq].count(at) for seq, at in enumerate(group)}
    rows: list[Row] = [
        {"id": name, "prompt": prompt, "completions": []}
        for name, prompt in zip(batch[IDS], batch[PROMPTS], strict=True)
    ]
    for at, text in zip(group, batch[COMPLETIONS], strict=True):
        rows[at]["completions"].append(text)
    if CHOSEN in batch:
        for better, worse in zip(_whole(batch[CHOSEN]), _whole(batch[REJECTED]), strict=True):
            rows[group[better]].setdefault("pairs", []).append([place[better], place[worse]])
    of = {"group": range(len(rows)), "seq": group}
    if CHOSEN in batch:
        of["pair"] = [group[seq] for seq in _whole(batch[CHOSEN])]
    if STEP_SEQ in batch:
        of["step"] = _whole(batch[STEP_SEQ])
    for key, values in batch.items():
        if key.into or key in (IDS, PROMPTS, COMPLETIONS) or key.dims not in of:
            continue
        if key.dims == "step":
            for row in rows:
                row[key.name] = [[] for _ in row["completions"]]
        for value, at in zip(_plain(values), of[key.dims], strict=True):
            if key.dims == "group":
                rows[at][key.name] = value
            elif key.dims == "step":
                rows[group[at]][key.name][place[at]].append(value)
            else:
                rows[at].setdefault(key.name, []).append(value)
    return rows


def _plain(values: Any) -> list[Any]:
    return cast("list[Any]", values if isinstance(values, list) else values.tolist())


def _whole(values: object) -> list[int]:
    return [int(value) for value in cast("Iterable[int]", values)]
