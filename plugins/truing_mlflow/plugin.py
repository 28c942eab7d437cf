"""What this plugin brings: an observer that tells a run to MLflow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from truing.plugins import hookimpl
from truing.stage import AnySpec, Fault, ObserverSpec

_SPECIAL = ("databricks", "uc")
_KEY_MARKS = frozenset("_-./: ")


class Mlflow(ObserverSpec, frozen=True, kw_only=True):
    """Tracks a run in MLflow: options, metrics of every step, data, the model with its signature, system metrics.

    A recipe of several phases is a run with one nested run per phase. Training never waits for a server and never stops
    because of one: what did not arrive is sent later, by `truing track` at the latest. It must answer at the start,
    though, or the run does not begin.
    """

    name: ClassVar[str] = "mlflow"
    target: ClassVar[str] = "truing_mlflow.observer:MlflowObserver"
    remote: ClassVar[bool] = True

    experiment: Annotated[str, Meta(min_length=1, description="the experiment that the run belongs to")] = "truing"
    tracking_uri: Annotated[
        str,
        Meta(description="where to send: http://... or sqlite:///...; empty: MLFLOW_TRACKING_URI, or mlflow.db here"),
    ] = ""
    run_name: Annotated[str, Meta(description="what the run is called there; empty: the name of the recipe")] = ""
    system_metrics: Annotated[bool, Meta(description="also send how busy the processor, memory and GPU are")] = True
    log_model: Annotated[
        Literal["link", "copy", "none"],
        Meta(description="link: path, digest and signature of the model; copy: its files, too; none: nothing of it"),
    ] = "link"
    tags: Annotated[dict[str, str], Meta(description="further tags of the run")] = {}

    def problems(self) -> Iterable[Fault]:
        """Addresses that MLflow would refuse, or that do not mean what they seem to mean."""
        uri = self.tracking_uri.strip()
        if "@" in urlsplit(uri).netloc:
            mend = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment instead"
            yield Fault("tracking_uri", "a password in a recipe is kept with every run of it", mend)
        if _is_a_folder(uri):
            what = f'MLflow keeps no new runs in a folder like "{uri}"'
            yield Fault(
                "tracking_uri", what, 'use tracking_uri = "sqlite:///mlflow.db", or the http:// address of a server'
            )
        if uri.startswith("sqlite://") and not uri.startswith("sqlite:///"):
            yield Fault("tracking_uri", f'"{uri}" names no file', f'write it with three slashes: "sqlite:///{uri[9:]}"')
        for key in self.tags:
            if not key or not all(letter.isalnum() or letter in _KEY_MARKS for letter in key):
                yield Fault(
                    "tags",
                    f'"{key}" cannot be the name of a tag',
                    "use letters, digits, and any of _ - . / : and space",
                )


def _is_a_folder(uri: str) -> bool:
    if not uri or uri in _SPECIAL or uri.startswith(tuple(f"{special}:" for special in _SPECIAL)):
        return False
    return uri.startswith("file:") or "://" not in uri


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    return [Mlflow]
