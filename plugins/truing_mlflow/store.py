"""Reaching MLflow: its address, a client that does not chatter and does not wait for ever, and words for what fails.

A client by itself tries a dead server for more than 40 seconds and prints what nobody asked for. Here a server is given
a few seconds at the start, and one attempt per call afterwards: the shipper tries again by itself. What the user has
set in the environment stays, but at the start.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import urllib.parse
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager

with warnings.catch_warnings():
    # SQLAlchemy 2.1 warns of an option that MLflow 3.17 still sets.
    warnings.simplefilter("ignore", DeprecationWarning)
    from mlflow.entities import Experiment
    from mlflow.environment_variables import MLFLOW_TRACKING_URI
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient, get_tracking_uri

from truing.errors import Problem, UserError
from truing_mlflow.ledger import Ids
from truing_mlflow.words import redact

WHERE = '[[observer]] use = "mlflow"'
MENDS = 'start the server, name another tracking_uri, or leave the observer out; locally, tracking_uri = "sqlite:///mlflow.db"'

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_HASTE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
_DATABASE_SECONDS = 4.0


def address(option: str, ids: Ids) -> str:
    """Where to send to: as the recipe or the environment says, else where this run was sent before, else MLflow's own.

    Raises UserError for a folder of files, which MLflow does not take any more.
    """
    uri = option or MLFLOW_TRACKING_URI.get() or ids.tracking_uri or get_tracking_uri()
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        uri = "sqlite:///" + os.path.abspath(uri.removeprefix("sqlite:///"))
    if uri.startswith("file:") or ("://" not in uri and not uri.startswith(("databricks", "uc"))):
        mend = 'set tracking_uri = "sqlite:///mlflow.db", or the http:// address of a server'
        raise UserError(Problem(WHERE, f"MLflow keeps no new runs in a folder like {redact(uri)}", mend))
    return uri


def quiet() -> None:
    """No telemetry, no addresses on stdout, no progress in the log, unless the user asked for them."""
    for key, value in _DEFAULTS.items():
        os.environ.setdefault(key, value)
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
        logging.getLogger("alembic").setLevel(logging.WARNING)


def connect(uri: str, experiment: str, ids: Ids) -> tuple[MlflowClient, str]:
    """A client, and the id of the experiment, made if need be. Raises UserError when the store does not answer in a few
    seconds, or does not know what was sent to it before."""
    _reach_database(uri)
    with answering(uri, ids), _haste(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        known = _experiment_id(client, experiment, found)
        if ids.run:
            client.get_run(ids.run)
    return client, known


@contextmanager
def answering(uri: str, ids: Ids) -> Iterator[None]:
    """Turn whatever a call to the store raises into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever the transport or the database raises, it means: no tracking here
        raise _unusable(uri, ids, error) from None


def _experiment_id(client: MlflowClient, name: str, found: Experiment | None) -> str:
    if found is None:
        return client.create_experiment(name)
    if found.lifecycle_stage != "active":
        mend = f"restore it with `mlflow experiments restore -x {found.experiment_id}`, or choose another name"
        raise UserError(Problem(WHERE, f'the experiment "{name}" was deleted', mend))
    return found.experiment_id


def _unusable(uri: str, ids: Ids, error: Exception) -> UserError:
    plain = redact(uri)
    if ids.run and isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST":
        what = f"{plain} does not know the run {ids.run}, which was sent to {ids.tracking_uri}"
        return UserError(
            Problem(WHERE, what, "name that address, or remove mlflow.json from the run folder to send all anew")
        )
    return UserError(Problem(WHERE, f"cannot use {plain}: {reason(error)}", MENDS))


def unanswered(uri: str, seconds: float) -> UserError:
    """What to say of a server that took too long."""
    return UserError(Problem(WHERE, f"{redact(uri)} did not answer in {seconds:.0f} s", MENDS))


def reason(error: Exception) -> str:
    """Why a call failed, in one line and without secrets."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0]
    for sign, words in _PLAIN.items():
        if sign in text:
            return words
    return redact(text if len(text) <= 200 else text[:200] + "...")


_PLAIN = {
    "Connection refused": "connection refused",
    "Name or service not known": "no such host",
    "Failed to resolve": "no such host",
    "timed out": "no answer in time",
}


@contextmanager
def _haste() -> Iterator[None]:
    before = {key: os.environ.get(key) for key in _HASTE}
    os.environ.update(_HASTE)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _reach_database(uri: str) -> None:
    """MLflow tries a database that it cannot use for 100 s; whether it can be used is known at once."""
    parts = urllib.parse.urlsplit(uri)
    try:
        if parts.scheme == "sqlite":
            _write_lock(uri.removeprefix("sqlite:///"))
        elif parts.scheme not in ("http", "https") and parts.hostname and parts.port:
            socket.create_connection((parts.hostname, parts.port), timeout=_DATABASE_SECONDS).close()
    except (OSError, sqlite3.Error) as error:
        raise UserError(Problem(WHERE, f"cannot use {redact(uri)}: {reason(error)}", MENDS)) from None


def _write_lock(file: str) -> None:
    with closing(sqlite3.connect(file, timeout=_DATABASE_SECONDS)) as database:
        database.execute("BEGIN IMMEDIATE")
