"""From events.jsonl to MLflow: the one road, live and later.

The journal has every event before anybody acts on it, so what to send is always "the lines from here on". A delivery
that fails is made again from the same line; a resumed run goes on in the same runs of MLflow, and steps it takes again
are not sent again.

A recipe of several phases becomes a run with a nested run per phase, so that the same phase of two runs can be compared
and each has its own curve from step 1. A recipe of a single phase is one run and no more: a person who trains one thing
looks for one row.

Everything here blocks, and is called in a worker thread, one call at a time.
"""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from truing.events import (
    Alarm,
    DataOpened,
    DataSaved,
    Evaluated,
    Event,
    GroupDropped,
    ModelSaved,
    PhaseEnded,
    PhaseStarted,
    RunEnded,
    RunStarted,
    SamplesShown,
    StepDone,
)
from truing.journal import Journal
from truing.run import Run
from truing_mlflow import models, words
from truing_mlflow.ledger import Ledger
from truing_mlflow.plugin import Mlflow

STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
SAMPLES = "samples.json"
METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100

_GROUP = Schema([ColSpec(DataType.string, "prompt"), ColSpec(Array(DataType.string), "completions")])
_CONTEXT = {"source": "training", "holdout": "evaluation"}
_DIGEST_LENGTH = 36
_QUIET = (StepDone, Evaluated, GroupDropped)


class Shipper:
    """Sends what the journal of a run has beyond what its ledger says was delivered."""

    def __init__(self, client: MlflowClient, experiment: str, options: Mlflow, run: Run, ledger: Ledger) -> None:
        self._client = client
        self._experiment = experiment
        self._options = options
        self._run = run
        self._journal = Journal(run.folder)
        self._ledger = ledger
        self._place = ledger.draft()
        self._points: defaultdict[str, list[Metric]] = defaultdict(list)

    @property
    def run_id(self) -> str:
        """The run of MLflow that stands for the whole recipe."""
        return self._ledger.ids.run

    @property
    def offset(self) -> int:
        """How many lines of the journal have arrived."""
        return self._ledger.place.offset

    def begin(self, uri: str) -> None:
        """Make the run on the server, unless it is there from before."""
        ids = self._ledger.ids
        if not ids.run:
            started = datetime.fromisoformat(self._journal.read().started)
            name = self._options.run_name or self._run.name
            ids.run = self._find_or_make(name, {"truing.phase": "(all)"}, int(started.timestamp() * 1000))
        ids.tracking_uri, ids.experiment = words.redact(uri), self._experiment
        self._ledger.keep()

    def ship(self, deadline: float) -> bool:
        """Send all that is new; False if `deadline`, on the monotonic clock, came first.

        Raises whatever the client raises; what was delivered until then stays delivered.
        """
        self._place = self._ledger.draft()
        self._points.clear()
        for number, event in self._journal.events(self._place.offset):
            self._send(event)
            self._place.offset = number + 1
            if not isinstance(event, _QUIET) or sum(map(len, self._points.values())) >= METRICS_PER_CALL:
                self._deliver()
                if time.monotonic() > deadline:
                    return False
        self._deliver()
        return True

    def unsent(self) -> int:
        """How many events have not arrived."""
        return sum(1 for _ in self._journal.events(self.offset))

    def settle(self) -> None:
        """Say for a run that was killed, or that never began, what it could not say itself."""
        owner = self._journal.read()
        alive = owner.host != socket.gethostname() or (owner.pid != os.getpid() and psutil.pid_exists(owner.pid))
        if owner.status != "running" or alive:
            return
        for run in (self.run_id, *self._ledger.ids.phases.values()):
            if self._client.get_run(run).info.status == "RUNNING":
                self._client.set_terminated(run, "KILLED")

    def _deliver(self) -> None:
        for run, points in self._points.items():
            for start in range(0, len(points), METRICS_PER_CALL):
                self._client.log_batch(run, metrics=points[start : start + METRICS_PER_CALL], synchronous=True)
        self._points.clear()
        if self._place.offset != self.offset:
            self._ledger.deliver(self._place)

    def _send(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._run_started(event)
            case DataOpened():
                self._client.log_inputs(self._phase_run(event.phase, event.time), [_dataset(event)])
            case PhaseStarted():
                self._phase_started(event)
            case StepDone():
                if event.step > self._place.steps.get(event.phase, 0):
                    self._place.steps[event.phase] = event.step
                    self._plot(event, {**event.metrics, "epoch": float(event.epoch)})
            case Evaluated():
                if event.step > self._place.looks.get(event.phase, -1):
                    self._place.looks[event.phase] = event.step
                    self._plot(event, event.metrics, "holdout/")
            case SamplesShown():
                self._samples(event)
            case GroupDropped():
                self._place.dropped[event.phase] = self._place.dropped.get(event.phase, 0) + 1
            case Alarm():
                self._alarm(event)
            case ModelSaved():
                if self._options.log_model != "none":
                    self._model(event)
            case DataSaved():
                told = f"{event.groups} groups in {event.path}"
                self._client.set_tag(self._phase_run(event.phase, event.time), "truing.data", words.redact(told))
            case PhaseEnded():
                self._phase_ended(event)
            case RunEnded():
                self._client.set_tag(
                    self.run_id,
                    "truing.ended",
                    words.cut(words.redact(f"{event.status} {event.reason}"), words.TAG_LENGTH),
                )
                self._client.set_terminated(self.run_id, STATUS.get(event.status, "FAILED"), _milliseconds(event))
            case _:
                pass

    def _run_started(self, event: RunStarted) -> None:
        if event.resumed:
            self._client.update_run(self.run_id, status="RUNNING")
        tags = {
            **resolve_tags(
                {"mlflow.source.name": f"truing run {event.name}", "mlflow.source.git.commit": event.commit}
            ),
            "mlflow.note.content": self._note(event),
            "truing.folder": event.folder,
            "truing.digest": event.digest,
            **{f"truing.version.{package}": version for package, version in event.versions.items()},
            **self._options.tags,
        }
        entries = [RunTag(key, words.cut(value, words.TAG_LENGTH)) for key, value in tags.items() if value]
        for start in range(0, len(entries), PARAMS_PER_CALL):
            self._client.log_batch(self.run_id, tags=entries[start : start + PARAMS_PER_CALL], synchronous=True)
        self._params(self.run_id, {"seed": self._run.seed})
        for file in ("recipe.toml", "resolved.toml"):
            text = (self._run.folder / file).read_text(encoding="utf-8")
            self._client.log_text(self.run_id, words.redact(text), file)

    def _note(self, started: RunStarted) -> str:
        """The description of the run; what it was started as, and every alarm that the journal has."""
        alarms = [event for _, event in self._journal.events() if isinstance(event, Alarm)]
        return words.redact(words.note(started, single=started.phases == [""], alarms=alarms))

    def _alarm(self, event: Alarm) -> None:
        told = words.cut(f"step {event.step}: {event.text}", words.TAG_LENGTH)
        self._client.set_tag(self._phase_run(event.phase, event.time), words.name(f"truing.alarm.{event.name}"), told)
        *_, started = (known for _, known in self._journal.events() if isinstance(known, RunStarted))
        self._client.set_tag(self.run_id, "mlflow.note.content", words.cut(self._note(started), words.TAG_LENGTH))

    def _phase_started(self, event: PhaseStarted) -> None:
        run = self._phase_run(event.phase, event.time)
        if event.phase:
            self._client.update_run(run, status="RUNNING")
        self._params(run, {**event.options, "steps": event.steps})

    def _phase_ended(self, event: PhaseEnded) -> None:
        run = self._phase_run(event.phase, event.time)
        if self._place.dropped.get(event.phase):
            reasons = self._dropped(event.phase)
            self._client.log_dict(run, reasons, "dropped.json")
            self._client.set_tag(
                run, "truing.dropped", str(len({group for groups in reasons.values() for group in groups}))
            )
        if event.phase:
            self._client.set_terminated(run, STATUS.get(event.status, "FAILED"), _milliseconds(event))

    def _samples(self, event: SamplesShown) -> None:
        """All that was shown of a phase until now, as a table of MLflow's: what is sent again is the same. A step
        that was looked at again after a resume counts as it was looked at last."""
        shown = {
            other.step: other.rows
            for _, other in self._journal.events()
            if isinstance(other, SamplesShown) and other.phase == event.phase and other.number <= event.number
        }
        columns = ["step", "id", "prompt", "completion", "score"]
        rows = [[step, *(row[column] for column in columns[1:])] for step, some in shown.items() for row in some]
        run = self._phase_run(event.phase, event.time)
        self._client.log_text(run, words.redact(words.table(columns, rows)), SAMPLES)
        self._client.set_tag(
            run, "mlflow.loggedArtifacts", msgspec.json.encode([{"path": SAMPLES, "type": "table"}]).decode()
        )

    def _dropped(self, phase: str) -> dict[str, list[str]]:
        """The groups that were dropped, by reason. An epoch or a resume that drops a group again adds nothing."""
        reasons: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for _, event in self._journal.events():
            if isinstance(event, GroupDropped) and event.phase == phase:
                reasons[event.reason][event.id] = None
        return {reason: list(groups) for reason, groups in reasons.items()}

    def _model(self, event: ModelSaved) -> None:
        ids, run = self._ledger.ids, self._phase_run(event.phase, event.time)
        folder = next(
            (path for path in (Path(event.path), self._run.folder / event.phase / "model") if path.is_dir()), None
        )
        if event.phase not in ids.models:
            name = f"{self._run.name}-{event.phase}".rstrip("-")
            ids.models[event.phase] = models.create(self._client, self._experiment, name, run, event, folder)
            self._ledger.keep()
        model, step = ids.models[event.phase], event.step
        if step < 0:
            step = self._place.steps.get(event.phase, 0)
        models.finish(self._client, model, event, folder, self._options.log_model, step)
        events = (look for _, look in self._journal.events() if isinstance(look, Evaluated))
        looks = [look for look in events if look.phase == event.phase and look.step <= step]
        if looks:
            # The same point as before to MLflow, and now on the page of the model, too.
            last = max(looks, key=lambda look: look.step)
            self._plot(last, last.metrics, "holdout/", model)

    def _plot(
        self, event: StepDone | Evaluated, values: dict[str, float], prefix: str = "", model: str | None = None
    ) -> None:
        points = self._points[self._phase_run(event.phase, event.time)]
        when = _milliseconds(event)
        points.extend(
            Metric(words.name(prefix + key), value, when, event.step, model_id=model) for key, value in values.items()
        )

    def _params(self, run: str, options: dict[str, Any]) -> None:
        """Log options that are not there yet: a parameter of MLflow is written once."""
        there = self._client.get_run(run).data.params
        new = [Param(key, value) for key, value in words.params(options).items() if key not in there]
        for start in range(0, len(new), PARAMS_PER_CALL):
            self._client.log_batch(run, params=new[start : start + PARAMS_PER_CALL], synchronous=True)

    def _phase_run(self, phase: str, moment: float) -> str:
        if not phase:
            return self.run_id
        ids = self._ledger.ids
        if phase not in ids.phases:
            tags = {"truing.phase": phase, "mlflow.parentRunId": self.run_id}
            ids.phases[phase] = self._find_or_make(phase, tags, int(moment * 1000))
            self._ledger.keep()
        return ids.phases[phase]

    def _find_or_make(self, name: str, tags: dict[str, str], start: int) -> str:
        """A run with these tags. It may be there although nobody knows: made by a call whose answer was lost."""
        tags = {
            "truing.run": f"{self._run.folder.resolve().name} {self._journal.read().started}".replace("'", "_"),
            **tags,
        }
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self._client.search_runs([self._experiment], wanted, max_results=1)
        return (
            found[0] if found else self._client.create_run(self._experiment, start, resolve_tags(tags), name)
        ).info.run_id


def _dataset(event: DataOpened) -> DatasetInput:
    origin = words.redact(event.origin)
    dataset = Dataset(
        name=event.name[:500] or event.role,
        digest=event.digest[:_DIGEST_LENGTH],
        source_type="http" if origin.startswith(("http://", "https://")) else "local",
        source=msgspec.json.encode({"url" if origin.startswith("http") else "uri": origin}).decode(),
        schema=msgspec.json.encode({"mlflow_colspec": _GROUP.to_dict()}).decode(),
        profile=msgspec.json.encode({"num_rows": event.groups, "skipped_rows": event.skipped}).decode(),
    )
    tags = [
        InputTag("mlflow.data.context", _CONTEXT.get(event.role, event.role)),
        InputTag("truing.digest", event.digest),
    ]
    return DatasetInput(dataset, tags)


def _milliseconds(event: Event) -> int:
    return int(event.time * 1000)
