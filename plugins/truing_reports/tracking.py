"""Figures and pictures of a report sent to MLflow, as a run of its own."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from truing.errors import Problem, UserError
from truing_reports.telling import Table

EXPERIMENT = "truing"


class Point(NamedTuple):
    """A metric; step: what it is of, an n for example."""

    key: str
    value: float
    step: int = 0


def points(value: Any, key: str = "") -> Iterator[Point]:
    """Every number of a report under its path: `pairs/accuracy/value`. Lists are left out, but those whose entries have
    names or say their n: that is the step."""
    if isinstance(value, Mapping):
        for name, inside in value.items():
            yield from points(inside, f"{key}/{name}" if key else str(name))
    elif isinstance(value, list):
        for entry in value:
            if isinstance(entry, Mapping) and "n" in entry:
                inside = {name: some for name, some in entry.items() if name != "n"}
                inside |= {some["how"]: some for some in inside.pop("chosen", [])}
                yield from (point._replace(step=int(entry["n"])) for point in points(inside, key))
            elif isinstance(entry, Mapping) and (said := _named(entry)):
                yield from points(entry, "/".join([key, *said]))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield Point(key, float(value))


def _named(entry: Mapping[str, Any]) -> list[str]:
    """The name of an entry, or all that it says in words, as two annotators do."""
    return [entry["name"]] if "name" in entry else [part for part in entry.values() if isinstance(part, str)]


def send(
    report: msgspec.Struct,
    name: str,
    file: str,
    options: Mapping[str, Any],
    pictures: Mapping[str, Any] = {},
    tables: Mapping[str, Table] = {},
) -> str:
    """Make an MLflow run of a report, where MLFLOW_TRACKING_URI says; the run's id.

    pictures: matplotlib's figures by file name; tables: as MLflow shows them, by theirs. Raises UserError when MLflow
    is not installed or does not answer.
    """
    for key, value in {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}.items():
        os.environ.setdefault(key, value)
    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # SQLAlchemy 2.1 warns of an option that MLflow 3.17 still sets.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from mlflow.entities import Metric, Param
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise UserError(Problem("--mlflow", "mlflow is not installed", "pip install 'truing[mlflow]'")) from None
        found = [point for point in points(msgspec.to_builtins(report)) if point.value == point.value]
        try:
            client = MlflowClient()
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
            known = client.get_experiment_by_name(experiment)
            place = known.experiment_id if known else client.create_experiment(experiment)
            run = client.create_run(place, run_name=name, tags={"truing.data": str(Path(file).absolute())})
            client.log_batch(
                run.info.run_id,
                metrics=[Metric(_key(it.key), it.value, run.info.start_time, it.step) for it in found],
                params=[Param(key, _said(value)) for key, value in options.items()],
            )
            for picture, figure in pictures.items():
                client.log_figure(run.info.run_id, figure, picture)
            for table, (columns, data) in tables.items():
                client.log_dict(run.info.run_id, {"columns": columns, "data": data}, table)
            if tables:
                shown = msgspec.json.encode([{"path": table, "type": "table"} for table in tables]).decode()
                client.set_tag(run.info.run_id, "mlflow.loggedArtifacts", shown)
            client.set_terminated(run.info.run_id)
        except MlflowException as error:
            what = f"MLflow did not take it: {str(error).splitlines()[0]}"
            raise UserError(Problem("--mlflow", what, "MLFLOW_TRACKING_URI says where it is")) from None
    return str(run.info.run_id)


def _key(path: str) -> str:
    """A path as MLflow allows it."""
    return "".join(letter if letter.isalnum() or letter in "_-./: " else "_" for letter in path)


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
