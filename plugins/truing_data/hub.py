"""Rows from a data set of the `datasets` library: the Hub, a folder written by `save_to_disk`, a folder of files.

The library honours HF_HUB_OFFLINE and HF_HOME by itself; it no longer runs code that comes with a data set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from truing.errors import Problem, UserError, did_you_mean
from truing.run import Run
from truing_data.held import Held, Loaded, Row, library, mapped
from truing_data.plugin import HuggingFace

_SAVED = ("state.json", "dataset_dict.json")


def huggingface(spec: HuggingFace, run: Run) -> Held:
    """The source of a `huggingface` spec."""

    def load() -> Loaded:
        return mapped(rows(data_set(spec), spec), spec, spec.path)

    return Held(Path(spec.path).absolute().name, spec.path, spec.shuffle, run, load, spec.bootstrap)


def data_set(spec: HuggingFace) -> Any:
    """The `datasets.Dataset` that the options name. Raises UserError with the library's own reason."""
    datasets = library("datasets", "data", spec.path)
    datasets.disable_progress_bars()
    folder = Path(os.path.expanduser(spec.path))
    try:
        if any((folder / name).exists() for name in _SAVED):
            return _split(datasets.load_from_disk(str(folder)), spec)
        where = str(folder) if folder.exists() else spec.path
        return datasets.load_dataset(where, name=spec.config, split=spec.split, revision=spec.revision)
    except UserError:
        raise
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        mend = "HF_HUB_OFFLINE is set: only what was downloaded before can be read" if _offline(datasets) else ""
        raise UserError(Problem(spec.path, f"cannot read this data set: {reason}", mend)) from None


def rows(data: Any, spec: HuggingFace) -> Iterator[Row]:
    """The rows of a data set as plain values, counted from 0; images and sounds stay undecoded."""
    name, number = f"{Path(spec.path).name}/{spec.split}", 0
    for table in data.with_format("arrow").iter(batch_size=1000):
        for value in table.to_pylist():
            yield Row(f"{name}[{number}]", f"{spec.path}/{spec.split}[{number}]", value)
            number += 1


def _split(saved: Any, spec: HuggingFace) -> Any:
    """A folder of `save_to_disk` holds one split, whatever it is called, or several by name."""
    if not isinstance(saved, dict):
        return saved
    if spec.split not in saved:
        raise UserError(Problem(spec.path, f'no split "{spec.split}" in this folder', did_you_mean(spec.split, saved)))
    return saved[spec.split]


def _offline(datasets: Any) -> bool:
    return bool(datasets.config.HF_HUB_OFFLINE)
