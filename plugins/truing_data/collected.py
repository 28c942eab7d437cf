"""Groups that an earlier phase sampled and scored, made into what a loss learns from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec

from truing.errors import Problem, UserError
from truing.fields import (
    LABEL,
    MARGIN,
    RANK,
    SOFT,
    STEP_INDEX,
    STEP_LABELS,
    STEP_SEQ,
    STEPS,
    Field,
    Group,
    Message,
    Text,
)
from truing.journal import GROUPS
from truing.run import Run
from truing_data.forms import finished
from truing_data.held import Held, Loaded
from truing_data.menu_collected import Collected
from truing_data.rows import as_messages
from truing_data.steps import check_labels


class Kept(msgspec.Struct, kw_only=True):
    """A group as a phase wrote it down. spoken: the turns of each completion, of a prompt of plain text that an
    environment answered. pairs: places of (better, worse) in `completions`; soft: of each, how likely that is so.
    steps: all steps of each completion; step_index, step_labels: of each, which of them are judged, and how."""

    id: str
    prompt: Text
    completions: list[Text]
    spoken: list[list[Message]] = []
    scores: list[float] = []
    pairs: list[tuple[int, int]] = []
    soft: list[float] = []
    steps: list[list[str]] = []
    step_index: list[list[int]] = []
    step_labels: list[list[float]] = []


def collected(spec: Collected, run: Run) -> Held:
    """The source of a `collected` spec."""
    named = [spec.path] if isinstance(spec.path, str) else spec.path
    origin = ", ".join(named)

    def load() -> Loaded:
        kept = [row for path in named for row in _read(path, run, spec)]
        kept = _numbered(kept)[spec.skip : None if spec.limit is None else spec.skip + spec.limit]
        groups = [group for row in kept if (group := formed(row, spec)) is not None]
        if not groups:
            raise UserError(Problem(origin, f"no group is left of {len(kept):,} in the form {spec.form}"))
        if spec.form == "steps":
            check_labels(groups, origin)
        return Loaded(finished(groups, spec, origin), len(kept) - len(groups))

    return Held(named[0].removeprefix("@"), origin, spec.shuffle, run, load, spec.bootstrap)


def formed(row: Kept, spec: Collected) -> Group | None:
    """A group in the form asked for; None if nothing is to be learned from it: no pair, one score for all, none good
    enough."""
    prompt, completions = _in_one_form(row)
    whole = Group(id=row.id, prompt=prompt, completions=completions)
    if spec.form == "pairs":
        if not row.pairs:
            return None
        extra: dict[Field[Any], list[Any]] = {SOFT: row.soft} if spec.soft else {}
        if spec.margins:
            extra[MARGIN] = [row.scores[better] - row.scores[worse] for better, worse in row.pairs]
        return msgspec.structs.replace(whole, pairs=turned(row, spec.noise), extra=extra)
    if spec.form == "steps":
        return msgspec.structs.replace(whole, extra=_steps(row)) if any(row.step_labels) else None
    if spec.form == "labels":
        labels = [int(score >= (spec.threshold or 0.0)) for score in row.scores]
        return msgspec.structs.replace(whole, extra={LABEL: labels})
    if spec.form == "rankings":
        return msgspec.structs.replace(whole, extra={RANK: ranks(row.scores)}) if len(set(row.scores)) > 1 else None
    if spec.form == "all":
        return whole
    best = max(range(len(row.scores)), key=lambda at: row.scores[at])
    if spec.threshold is not None and row.scores[best] < spec.threshold:
        return None
    return msgspec.structs.replace(whole, completions=[completions[best]])


def turned(row: Kept, noise: float) -> list[tuple[int, int]]:
    """The pairs of a group, each turned round with probability `noise`, decided by a hash of the group's id and of the
    pair's place."""
    chance = [random.Random(f"noise/{row.id}/{at}").random() for at in range(len(row.pairs))]
    return [(b, a) if drawn < noise else (a, b) for drawn, (a, b) in zip(chance, row.pairs, strict=True)]


def ranks(scores: Sequence[float]) -> list[int]:
    """The place of each score, the largest is 0; equal scores share one."""
    places = {score: place for place, score in enumerate(sorted(set(scores), reverse=True))}
    return [places[score] for score in scores]


def _steps(row: Kept) -> dict[Field[Any], list[Any]]:
    return {
        STEPS: row.steps,
        STEP_SEQ: [seq for seq, some in enumerate(row.step_index) for _ in some],
        STEP_INDEX: [index for some in row.step_index for index in some],
        STEP_LABELS: [label for some in row.step_labels for label in some],
    }


def _in_one_form(row: Kept) -> tuple[Text, list[Text]]:
    """What was sampled is text; to a prompt of messages it is a message, too. Several turns are messages anyway."""
    if isinstance(row.prompt, str):
        return row.prompt, [turns or text for turns, text in zip_longest(row.spoken, row.completions)]
    return row.prompt, as_messages(row.completions)


def _fault(row: Kept, spec: Collected) -> str:
    """Why a row of a file cannot be what the options ask for, "" if it can."""
    count = len(row.completions)
    if not count:
        return "no completions"
    if row.spoken and len(row.spoken) != count:
        return f"{len(row.spoken)} lists of turns for {count} completions"
    if spec.form == "steps":
        return _step_fault(row, count)
    if (spec.form not in ("pairs", "all") or spec.margins) and len(row.scores) != count:
        return f"{len(row.scores)} scores for {count} completions"
    if spec.soft and len(row.soft) != len(row.pairs):
        return f"{len(row.soft)} values of `soft` for {len(row.pairs)} pairs"
    if any(not 0 <= soft <= 1 for soft in row.soft):
        return "a value of `soft` that is no probability"
    outside = [place for pair in row.pairs for place in pair if not 0 <= place < count]
    return f"a pair names completion {outside[0]}, and there are {count}, counted from 0" if outside else ""


def _step_fault(row: Kept, count: int) -> str:
    for name in ("steps", "step_index", "step_labels"):
        if len(lists := getattr(row, name)) != count:
            return f'"{name}" has {len(lists)} lists for {count} completions'
    for at, (steps, places, labels) in enumerate(zip(row.steps, row.step_index, row.step_labels, strict=True), 1):
        if len(places) != len(labels):
            return f"completion {at} has {len(labels)} labels of steps for {len(places)} places"
        if any(not 0 <= place < len(steps) for place in places):
            return f"completion {at} has a label of a step it does not have; there are {len(steps)}, counted from 0"
        if any(not 0 <= label <= 1 for label in labels):
            return f"completion {at} has a label that is no probability"
    return ""


def _read(path: str, run: Run, spec: Collected) -> Iterator[Kept]:
    """The groups of a file, or of what a phase made. Raises UserError."""
    file = Path(run.resolve(path, "data")) / GROUPS if path.startswith("@") else Path(path).expanduser()
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise UserError(Problem(path, f"cannot read {file}: {error.strerror}")) from None
    for number, line in enumerate(lines, 1):
        try:
            row = msgspec.json.decode(line, type=Kept)
            fault = _fault(row, spec)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            row, fault = None, f"no group as a phase writes it: {error}"
        if row is None or fault:
            raise UserError(Problem(f"{file}:{number}", fault, 'use = "jsonl" reads rows of your own'))
        yield row


def _numbered(rows: list[Kept]) -> list[Kept]:
    """Rows with an id each of its own: a prompt that several phases sampled for comes several times."""
    seen: dict[str, int] = {}
    for row in rows:
        seen[row.id] = seen.get(row.id, 0) + 1
        if seen[row.id] > 1:
            row.id = f"{row.id}#{seen[row.id]}"
    return rows
