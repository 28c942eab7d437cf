"""What was sent already: `<run folder>/mlflow.json`.

`ids` name what exists on the server and are kept the moment it does. `place` says how far the events were delivered
and is kept after each delivery. Events are sent again from `place` after any failure: MLflow knows a metric by its key,
step, time and value, so a point that arrived twice is one point.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import msgspec

FILE = "mlflow.json"


class Ids(msgspec.Struct, kw_only=True):
    """Runs and models on the server. phases and models: by the name of the phase."""

    tracking_uri: str = ""
    """without user and password"""
    experiment: str = ""
    run: str = ""
    phases: dict[str, str] = {}
    models: dict[str, str] = {}


class Place(msgspec.Struct, kw_only=True):
    """How far the events of a run were delivered.

    offset: lines of events.jsonl. steps, looks: the last step and the last evaluation sent, per phase; what a resumed
    run does over again is not sent again. dropped: how often a group was dropped, per phase.
    """

    offset: int = 0
    steps: dict[str, int] = {}
    looks: dict[str, int] = {}
    dropped: dict[str, int] = {}


class _File(msgspec.Struct, kw_only=True):
    ids: Ids
    place: Place
    about: str = "What `truing` has sent to MLflow of this run; `truing track` sends the rest."


class Ledger:
    """mlflow.json of a run folder, read when it exists."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self.ids, self.place = Ids(), Place()
        if self._path.exists():
            found = msgspec.json.decode(self._path.read_bytes(), type=_File)
            self.ids, self.place = found.ids, found.place

    def draft(self) -> Place:
        """A copy of the place to work on, until `deliver` makes it true."""
        return deepcopy(self.place)

    def deliver(self, place: Place) -> None:
        """Keep that everything up to `place` has arrived."""
        self.place = deepcopy(place)
        self.keep()

    def keep(self) -> None:
        """Write the file, whole."""
        waiting = self._path.with_name(FILE + ".new")
        waiting.write_bytes(msgspec.json.format(msgspec.json.encode(_File(ids=self.ids, place=self.place)), indent=2))
        waiting.replace(self._path)
