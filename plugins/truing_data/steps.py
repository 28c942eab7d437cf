"""Solutions in steps: published formats to trees of steps, and trees to solutions in which each step is judged once.

    row -> tree -> (labels in one sense) -> solutions -> group

A tree is what all formats have in common: a chain of steps is one without branches. A step that several solutions share
is judged in the first of them, so a rating is learned from once, however many alternatives follow it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import msgspec

from truing.errors import Problem, UserError
from truing.fields import STEP_INDEX, STEP_LABELS, STEP_SEQ, STEPS, Field, Group
from truing.run import Run
from truing_data.files import lines
from truing_data.held import Held, Loaded, made
from truing_data.menu_steps import StepFile
from truing_data.on_disk import paths
from truing_data.rows import BadRow, identity, laid_out, list_of, number_of, text_of, value_of

_MARK = "ки"
"""what stands behind every step in Math-Shepherd"""
_FIRST = "Step 1:"
_HUMAN = (-1, 0, 1)
_LINE = "\n"

F = TypeVar("F")


class Node(msgspec.Struct):
    """A step of a PRM800K tree: its parent, its text and its rating."""

    p: int
    t: str
    r: int | None = None


class Nodes(msgspec.Struct):
    """PRM800K as a tree."""

    problem: str
    nodes: list[Node]


class Rated(msgspec.Struct):
    """An alternative for a step in PRM800K."""

    text: str
    rating: int | None = None


class Turn(msgspec.Struct):
    """A step in PRM800K: its alternatives, and which of them the solution goes on with."""

    completions: list[Rated] | None
    human_completion: Rated | None
    chosen_completion: int | None


class Question(msgspec.Struct):
    """What is asked in PRM800K."""

    problem: str


class Turns(msgspec.Struct):
    """The steps of a solution in PRM800K."""

    steps: list[Turn]


class Published(msgspec.Struct):
    """PRM800K as it is published."""

    question: Question
    label: Turns


class Shepherded(msgspec.Struct):
    """A solution of Math-Shepherd: marked, and with a sign in place of every mark."""

    input: str
    label: str


class Prefix(msgspec.Struct):
    """A beginning of a solution in MATH-APS, and the share of rollouts from it that came out right."""

    solution_prefix: str
    mc_value: float


class Sampled(msgspec.Struct):
    """A problem of MATH-APS with the tree that was sampled for it."""

    question: str
    reasoning_steps: list[Prefix]


class Step(NamedTuple):
    """A step of a tree. parent: the place of the step before it, -1 for none. label: None if it is not judged."""

    parent: int
    text: str
    label: float | None


class Tree(NamedTuple):
    """A problem and its steps, each behind its parent. human: labels are -1, 0 and 1. joined: what stands between the
    steps in the text of a solution."""

    problem: str
    steps: list[Step]
    human: bool = False
    joined: str = _LINE


def step_file(spec: StepFile, run: Run) -> Held:
    """The source of a `step-file` spec."""
    origin = spec.path if isinstance(spec.path, str) else ", ".join(spec.path)

    def load() -> Loaded:
        found = paths(spec.path)
        if not found:
            raise UserError(Problem(origin, "no such file"))
        alike = len({path.name for path in found}) < len(found)
        rows = (row for path in found for row in lines(path, str(path) if alike else path.name))
        loaded = made(rows, partial(groups_of, options=spec), spec, origin)
        judged = [group for group in loaded.groups if group.extra[STEP_SEQ]]
        if spec.labelled:
            check_labels(judged, origin)
        return Loaded(judged, loaded.skipped + len(loaded.groups) - len(judged))

    first = spec.path if isinstance(spec.path, str) else spec.path[0]
    return Held(Path(first).name, origin, spec.shuffle, run, load)


def groups_of(row: Mapping[str, Any], name: str, options: StepFile) -> list[Group]:
    """The group of one row. name: its id when no column has one. Raises BadRow."""
    tree = _FORMATS[options.format](row, options)
    if not tree.steps:
        raise BadRow("there are no steps")
    if any(not step.text.strip() for step in tree.steps):
        raise BadRow("one of its steps is blank")
    known = [_probability(step.label, tree.human, options) for step in tree.steps]
    ways = [(way, _judged(way, first, known, options)) for way, first in solutions_of(tree.steps)]
    # A solution of which nothing is judged teaches nothing.
    ways = [(way, judged) for way, judged in ways if judged]
    texts = [[tree.steps[at].text for at in way] for way, _ in ways]
    prompt, completions = laid_out(tree.problem, [tree.joined.join(steps) for steps in texts], options)
    extra: dict[Field[Any], list[Any]] = {
        STEPS: texts,
        STEP_SEQ: [seq for seq, (_, judged) in enumerate(ways) for _ in judged],
        STEP_INDEX: [index for _, judged in ways for index in judged],
    }
    if options.labelled:
        extra[STEP_LABELS] = [known[way[index]] for way, judged in ways for index in judged]
    return [Group(id=identity(row, name, options.id), prompt=prompt, completions=completions, extra=extra)]


def _judged(way: Sequence[int], first: int, known: Sequence[float | None], options: StepFile) -> list[int]:
    """Which steps of a solution are judged, counted within it. first: from where on they are judged in no other."""
    if not options.labelled:
        return list(range(first, len(way)))
    labels = [known[at] for at in way]
    end = len(way)
    if options.after_error == "drop":
        wrong = (index for index, label in enumerate(labels) if label is not None and label < 0.5)
        end = next(wrong, end - 1) + 1
    return [index for index in range(first, end) if labels[index] is not None]


def solutions_of(steps: Sequence[Step]) -> Iterator[tuple[list[int], int]]:
    """Every way from a first to a last step of a tree, with the place in it from which on its steps are new."""
    seen: set[int] = set()
    parents = {step.parent for step in steps}
    for leaf in range(len(steps)):
        if leaf in parents:
            continue
        way = [leaf]
        while (parent := steps[way[-1]].parent) >= 0:
            way.append(parent)
        way.reverse()
        yield way, next(place for place, at in enumerate(way) if at not in seen)
        seen.update(way)


def _probability(label: float | None, human: bool, options: StepFile) -> float | None:
    """That a step is right; None if it is not judged."""
    if label is None:
        return None
    if human:
        half = {"good": 1.0, "bad": 0.0, "half": 0.5, "drop": None}[options.neutral]
        label = half if label == 0 else float(label > 0)
    return label if options.hard is None or label is None else float(label >= options.hard)


def check_labels(groups: Sequence[Group], origin: str) -> None:
    """Raises UserError if no step is judged, or all of them alike: nothing is to be learned from that."""
    labels = {label for group in groups for label in group.extra[STEP_LABELS]}
    if not labels:
        raise UserError(Problem(origin, "no step in it is judged", "is this the right column?"))
    if len(labels) == 1:
        what = f"every step that is judged has the label {labels.pop():g}"
        mend = (
            "steps teach by their difference: is this the right column, are rows of the other kind left out? "
            "Of rollouts: does the policy come out right now and then, and not always?"
        )
        raise UserError(Problem(origin, what, mend))


def _columns(row: Mapping[str, Any], options: StepFile) -> Tree:
    problem = text_of(value_of(row, options.prompt or "prompt"), f'"{options.prompt or "prompt"}"')
    column = options.steps or "steps"
    texts = [text_of(step, f'"{column}", step {at}') for at, step in enumerate(list_of(row, column), 1)]
    human = options.scale == "human"
    labels: list[float | None] = [None] * len(texts)
    if options.labels is not None:
        labels = [
            None if label is None else _label(label, f'"{options.labels}", step {at}', human)
            for at, label in enumerate(list_of(row, options.labels), 1)
        ]
        if len(labels) != len(texts):
            raise BadRow(f'"{options.labels}" has {len(labels)} labels for {len(texts)} steps')
    elif options.first_error is not None:
        labels = _until_error(row, options.first_error, len(texts))
    return Tree(problem, _chain(texts, labels), human)


def _until_error(row: Mapping[str, Any], column: str, count: int) -> list[float | None]:
    """Labels of so many steps, of which the first wrong one is named: none behind it."""
    if column not in row:
        value_of(row, column)
    place = row[column]
    if place is None or place == -1:
        return [1.0] * count
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < count:
        raise BadRow(f'"{column}" is {place!r}, and there are {count} steps, counted from 0', "null or -1: none")
    return [1.0] * place + [0.0] + [None] * (count - place - 1)


def _label(value: Any, place: str, human: bool) -> float:
    label = float(value) if isinstance(value, bool) and not human else number_of(value, place)
    if human and label not in _HUMAN:
        raise BadRow(f"{place} is {value}, not -1, 0 or 1", 'scale = "probability" takes numbers from 0 to 1')
    if not human and not 0 <= label <= 1:
        raise BadRow(f"{place} is {value}, not a probability", 'scale = "human" takes -1, 0 and 1')
    return label


def _prm800k(row: Mapping[str, Any], options: StepFile) -> Tree:
    """PRM800K (arXiv:2305.20050), as published or as a tree of nodes.

    What nobody rated is not judged, the steps that people wrote themselves among it.
    """
    if "nodes" in row:
        tree = _as(Nodes, row, options)
        if any(node.p >= at for at, node in enumerate(tree.nodes)):
            raise BadRow('a node of "nodes" stands before its parent')
        return Tree(tree.problem, [Step(node.p, node.t, node.r) for node in tree.nodes], human=True)
    published = _as(Published, row, options)
    steps: list[Step] = []
    parent = -1
    for turn in published.label.steps:
        start = len(steps)
        steps += [Step(parent, rated.text, rated.rating) for rated in turn.completions or []]
        if turn.chosen_completion is not None:
            parent = start + turn.chosen_completion
        elif turn.human_completion is not None:
            steps.append(Step(parent, turn.human_completion.text, None))
            parent = len(steps) - 1
        else:
            break
    return Tree(published.question.problem, steps, human=True)


def _math_shepherd(row: Mapping[str, Any], options: StepFile) -> Tree:
    """Math-Shepherd (arXiv:2312.08935): a mark stands behind every step."""
    both = _as(Shepherded, row, options)
    parts, signed = both.input.split(_MARK), both.label
    labels: list[float] = []
    for part in parts[:-1]:
        sign = signed[len(part) : len(part) + 1]
        if not signed.startswith(part) or sign not in ("+", "-"):
            raise BadRow(f'"label" is not "input" with + or - in place of every {_MARK}', f"they part at {part!r}")
        labels.append(float(sign == "+"))
        signed = signed[len(part) + 1 :]
    if parts[-1].strip():
        raise BadRow(f'"input" has text behind the last {_MARK}')
    if _FIRST not in parts[0]:
        raise BadRow(f'"input" has no "{_FIRST}" in front of its steps')
    at = parts[0].rindex(_FIRST)
    texts = [text.strip() for text in (parts[0][at:], *parts[1:-1])]
    return Tree(parts[0][:at].strip(), _chain(texts, labels))


def _math_aps(row: Mapping[str, Any], options: StepFile) -> Tree:
    """MATH-APS, sampled as in OmegaPRM (arXiv:2406.06592): prefixes with the problem in front.

    A step is what a prefix adds to the longest other one that it begins with. Its label is the prefix's value, the mean
    of them where it was met again and tried anew.
    """
    sampled = _as(Sampled, row, options)
    values: dict[str, list[float]] = {}
    for at, prefix in enumerate(sampled.reasoning_steps, 1):
        if not prefix.solution_prefix.startswith(sampled.question):
            raise BadRow(f'"reasoning_steps", entry {at} does not begin with the question')
        label = _label(prefix.mc_value, f'"reasoning_steps", entry {at}', human=False)
        values.setdefault(prefix.solution_prefix, []).append(label)
    prefixes = sorted((prefix for prefix in values if prefix != sampled.question), key=len)
    place = {prefix: at for at, prefix in enumerate(prefixes)}
    steps: list[Step] = []
    for prefix in prefixes:
        before = [known for known in prefixes if prefix.startswith(known) and known != prefix]
        parent = before[-1] if before else sampled.question
        steps.append(Step(place.get(parent, -1), prefix[len(parent) :], fmean(values[prefix])))
    return Tree(sampled.question, steps, joined="")


def _chain(texts: Sequence[str], labels: Sequence[float | None]) -> list[Step]:
    """Steps one behind the other."""
    return [Step(at - 1, text, label) for at, (text, label) in enumerate(zip(texts, labels, strict=True))]


def _as(kind: type[F], row: Mapping[str, Any], options: StepFile) -> F:
    """A row in the form its format has. Raises BadRow."""
    try:
        return msgspec.convert(row, kind)
    except msgspec.ValidationError as error:
        raise BadRow(f'no row of the format "{options.format}": {error}') from None


_FORMATS = {"columns": _columns, "prm800k": _prm800k, "math-shepherd": _math_shepherd, "math-aps": _math_aps}
