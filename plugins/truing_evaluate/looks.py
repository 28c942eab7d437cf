"""Looks: what the prompts of a holdout are asked, and what is made of the answers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

import msgspec

from truing.errors import Problem, UserError, did_you_mean
from truing.fields import (
    COMPLETIONS,
    GROUP,
    IDS,
    METADATA,
    PROMPTS,
    SAMPLES,
    SCORE_PARTS,
    SCORES,
    TEMPERATURE,
    Batch,
    Text,
)
from truing.run import Run
from truing.whole import put
from truing_evaluate import menu_looks, menu_probes
from truing_evaluate.commands import installed
from truing_evaluate.shapes import Figure


class PassAtK:
    """Counts right completions."""

    def __init__(self, spec: menu_looks.PassAtK, run: Run) -> None:
        self._spec = spec

    def asked(self, prompts: Batch) -> Batch:
        """Prompts as a generator is to answer them in a look."""
        return _asked(self._spec, prompts)

    def numbers(self, batch: Batch) -> dict[str, float]:
        """pass@k of scored completions, for every k that was asked for, each with its standard error over the prompts;
        and majority@n. Raises UserError for a score that nobody gave, and for k of fewer than k completions."""
        groups = self._answered(batch)
        few = min(len(group) for group in groups)
        if few < max(self._spec.k):
            what = f"{max(self._spec.k)} of {few} completions cannot be drawn"
            raise UserError(Problem("[look] k", what, f"set samples = {max(self._spec.k)}, or lower k"))
        found: dict[str, float] = {}
        for k in self._spec.k:
            found |= _with_error(
                f"pass@{k}", [pass_at(len(group), sum(one.right for one in group), k) for group in groups]
            )
        if self._spec.vote_after is not None:
            found |= _with_error(f"majority@{few}", [_majority(group) for group in groups])
        return found

    def rows(self, batch: Batch) -> list[dict[str, Any]]:
        """Of the first prompts a row for each completion."""
        return _shown(self._spec, batch)

    def _answered(self, batch: Batch) -> list[list[_Answer]]:
        """The completions of each prompt: whether each is right, and what it votes for."""
        scores = self._scores(batch)
        found: defaultdict[int, list[_Answer]] = defaultdict(list)
        for group, text, score in zip(map(int, _floats(batch[GROUP])), batch[COMPLETIONS], scores, strict=True):
            found[group].append(_Answer(score >= self._spec.right, _voted(text, self._spec.vote_after or "")))
        return list(found.values())

    def _scores(self, batch: Batch) -> Sequence[float]:
        if not self._spec.by:
            return _floats(batch[SCORES])
        parts: Sequence[Mapping[str, float]] = batch.get(SCORE_PARTS, [{}])
        if any(self._spec.by not in part for part in parts):
            what = f'no scorer of the mix is called "{self._spec.by}"'
            raise UserError(Problem("[look] by", what, did_you_mean(self._spec.by, parts[0])))
        return [part[self._spec.by] for part in parts]


class Measures:
    """Says what learning does to a model beside what it is to do."""

    def __init__(self, spec: menu_probes.Measures, run: Run) -> None:
        installed("measure")
        self._spec = spec
        self._first = run.phase_folder / "first-look.json"

    def asked(self, prompts: Batch) -> Batch:
        """Prompts as a generator is to answer them in a look."""
        return _asked(self._spec, prompts)

    def numbers(self, batch: Batch) -> dict[str, float]:
        """Every figure with the ends of its interval, and how far it has changed since the first look. That look is
        kept in the phase's folder, so a resumed run goes on with the same."""
        from truing_evaluate.measures import Asked, Sums, change_of, figure_of, sums_of

        texts: defaultdict[int, list[str]] = defaultdict(list)
        for group, text in zip(map(int, _floats(batch[GROUP])), batch[COMPLETIONS], strict=True):
            texts[group].append(_plain(text))
        told = enumerate(zip(batch[IDS], batch[METADATA], strict=True))
        sums = sums_of([Asked(name, about, texts[group]) for group, (name, about) in told])
        found: dict[str, float] = {}
        for name, items in sums.items():
            found |= _with_ends(name, figure_of(name, items))
        if not self._first.exists():
            put(self._first, msgspec.json.encode(sums))
            return found
        first = msgspec.json.decode(self._first.read_bytes(), type=Sums)
        for name, items in sums.items():
            if name in first and (change := change_of(name, first[name], items)):
                found |= _with_ends(f"{name}/change", change[0])
        return found

    def rows(self, batch: Batch) -> list[dict[str, Any]]:
        """Of the first prompts a row for each completion."""
        return _shown(self._spec, batch)


def _asked(spec: menu_looks.Sampled, prompts: Batch) -> Batch:
    if spec.samples is not None:
        prompts = prompts.put(SAMPLES, spec.samples)
    return prompts if spec.temperature is None else prompts.put(TEMPERATURE, spec.temperature)


def _shown(spec: menu_looks.Sampled, batch: Batch) -> list[dict[str, Any]]:
    scores = _floats(batch[SCORES]) if SCORES in batch else [0.0] * len(batch[COMPLETIONS])
    told = zip(map(int, _floats(batch[GROUP])), batch[COMPLETIONS], scores, strict=True)
    return [
        {"id": batch[IDS][group], "prompt": batch[PROMPTS][group], "completion": text, "score": score}
        for group, text, score in told
        if group < spec.shown
    ]


class _Answer(NamedTuple):
    right: bool
    said: str


def pass_at(count: int, right: int, k: int) -> float:
    """The chance that one of k completions is right that are drawn from `count` without putting back, `right` of which
    are: 1 - C(n - c, k) / C(n, k), without bias for a model's own (arXiv:2107.03374, eq. 1)."""
    return 1 - math.comb(count - right, k) / math.comb(count, k)


def _majority(group: Sequence[_Answer]) -> float:
    """Whether the answer most completions give is right; those that tie share, and so do completions of one answer."""
    votes: defaultdict[str, list[bool]] = defaultdict(list)
    for one in group:
        votes[one.said].append(one.right)
    most = max(map(len, votes.values()))
    return fmean(fmean(right) for right in votes.values() if len(right) == most)


def _voted(text: Text, mark: str) -> str:
    said = _plain(text)
    return (said.rpartition(mark)[2] if mark else said).strip()


def _plain(text: Text) -> str:
    return text if isinstance(text, str) else text[-1]["content"]


def _with_ends(name: str, figure: Figure) -> dict[str, float]:
    """A figure with the ends of its interval; without what is not defined, such as a ratio to nothing."""
    told = {name: figure.value, f"{name}/low": figure.low, f"{name}/high": figure.high}
    return {key: value for key, value in told.items() if math.isfinite(value)}


def _with_error(name: str, values: Sequence[float]) -> dict[str, float]:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {name: fmean(values), f"{name}/error": error}


def _floats(values: Iterable[Any]) -> list[float]:
    return [float(value) for value in values]
