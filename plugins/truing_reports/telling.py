"""A report for whoever asked: as JSON on stdout, or as a run of MLflow. What is heavy is imported when it is called."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

import msgspec
import typer

Json = Annotated[bool, typer.Option("--json", help="Machine-readable JSON on stdout, and nothing else there.")]
Mlflow = Annotated[bool, typer.Option("--mlflow", help="Send the figures to MLflow, where MLFLOW_TRACKING_URI says.")]


Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Heads, and rows as long."""


class Report(Protocol):
    """A msgspec struct of figures, and the file they are of."""

    @property
    def file(self) -> str: ...


def sent(
    report: Report,
    what: str,
    options: Mapping[str, Any],
    pictures: Mapping[str, Any] = {},
    tables: Mapping[str, Table] = {},
) -> None:
    """Send a report to MLflow with its pictures, matplotlib's figures by file name, and its tables, and say where it
    is."""
    from truing_reports.tracking import send

    run = send(report, f"{what} {report.file}", report.file, options, pictures, tables)
    print(f"MLflow run: {run}", file=sys.stderr)


def as_json(value: Any) -> None:
    """Print a value for a program; infinity, which is no number of JSON, as null."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
