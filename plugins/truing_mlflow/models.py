"""A model that a phase made, as a logged model of MLflow: where it lies, its digest, its signature.

By default no weights travel. MLflow calls such a model external: its page shows parameters, metrics and an `MLmodel`
file with the signature, and it can be registered; the weights stay in the run folder. The file is written here rather
than by a flavor of MLflow, which would import transformers, load the model and guess at requirements.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array, Object, Property

from truing.events import ModelSaved
from truing_mlflow.words import TAG_LENGTH, cut, params, redact

EXTERNAL = "mlflow.model.isExternal"
SIGNATURE = ModelSignature(
    inputs=Schema(
        [ColSpec(Array(Object([Property("role", DataType.string), Property("content", DataType.string)])), "messages")]
    ),
    outputs=Schema([ColSpec(DataType.string, "text")]),
)
"""The turns of a conversation in, text out."""

_CHUNK = 1 << 22


def create(client: MlflowClient, experiment: str, name: str, run: str, event: ModelSaved, folder: Path | None) -> str:
    """A new logged model, not finished yet; its id. folder: where its files are found, None if they are gone."""
    tags = {
        "truing.path": event.path,
        "truing.phase": event.phase,
        "truing.signature": "messages: [{role, content}] -> text",
        EXTERNAL: "true",
    }
    if folder is not None:
        tags["truing.digest"] = digest(folder)
    facts = params(event.facts)
    made = client.create_logged_model(
        experiment,
        name.replace(".", "-"),
        run,
        tags,
        facts,
        model_type=str(event.facts.get("architecture", "language-model")),
    )
    return made.model_id


def finish(
    client: MlflowClient, model: str, event: ModelSaved, folder: Path | None, how: Literal["link", "copy"], step: int
) -> None:
    """Send the MLmodel file, and with `copy` the model's own files, and declare the model ready. May be done again."""
    logged = client.get_logged_model(model)
    copied = how == "copy" and folder is not None
    with tempfile.TemporaryDirectory() as place:
        _mlmodel(logged, event, external=not copied).save(str(Path(place) / "MLmodel"))
        client.log_model_artifacts(model, place)
    if copied:
        client.log_model_artifacts(model, str(folder), "model")
        if EXTERNAL in logged.tags:
            client.delete_logged_model_tag(model, EXTERNAL)
    client.log_outputs(logged.source_run_id, [LoggedModelOutput(model, step)])
    client.finalize_logged_model(model, "READY")


def digest(folder: Path) -> str:
    """What tells these files from all others: SHA-256 over their names and contents."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                whole.update(chunk)
    return whole.hexdigest()


def _mlmodel(logged: Any, event: ModelSaved, external: bool) -> Model:
    facts = {key: cut(redact(str(value)), TAG_LENGTH) for key, value in event.facts.items()}
    about = {"truing.path": event.path, "truing.digest": logged.tags.get("truing.digest", ""), "truing.facts": facts}
    return Model(
        artifact_path=logged.artifact_location,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
        run_id=logged.source_run_id,
        signature=SIGNATURE,
        metadata={**about, **({EXTERNAL: True} if external else {})},
    )
