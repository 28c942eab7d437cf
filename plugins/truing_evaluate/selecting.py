"""Choosing one of several completions: by score, by vote, and what each way is worth against a truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from truing.errors import Problem, UserError
from truing_evaluate.answers import canonical
from truing_evaluate.bestof import best_of, kl_bound
from truing_evaluate.intervals import DRAWS, Array, Whole, mean_of
from truing_evaluate.labelled import powers
from truing_evaluate.rows import BadValue, Row, Scored, field, numbered, numbers, words
from truing_evaluate.shapes import Choice, Chosen, Selection
from truing_evaluate.voting import SUBSETS, Weigh, vote, weighed

How = Literal["best", "vote", "weighted-vote"]
Answers = Callable[[str], str | None]
"""From a text to its answer, None where it has none."""
Truths = Callable[[str, Row], Array]
"""From a prompt's name and row to what is true of its completions."""


@dataclass(frozen=True)
class Prompt:
    """The completions of a prompt, in the order of their texts. answers: a number for each, -1 for none."""

    name: str
    row: Row
    places: Sequence[int]
    scores: Array | None
    truth: Array | None
    answers: Whole
    said: Sequence[str]

    def weights(self, how: How, weigh: Weigh) -> Array:
        """Of their votes; [completion]"""
        if how == "vote" or self.scores is None:
            return np.ones(len(self.places))
        return weighed(self.scores, weigh)


def prompts_of(data: Scored, scores: str | None, truth: Truths | None, read: Answers) -> list[Prompt]:
    """The prompts of a file. scores: a field; truth: of a prompt's completions. Raises UserError naming each row that
    is wrong."""
    names = {row.where: name for name, row in numbered(data.rows)}
    return data.each(lambda row: _prompt(names[row.where], row, scores, truth, read))


def choices(prompts: Sequence[Prompt], hows: Sequence[How], ns: Sequence[int], weigh: Weigh) -> list[Choice]:
    """What each way to choose is worth for each n, over the prompts with as many completions. Raises UserError for an n
    that no prompt has, and for weights below 0."""
    _fits(prompts, hows, ns, weigh)
    found: list[Choice] = []
    for n in ns:
        enough = [prompt for prompt in prompts if len(prompt.places) >= n]
        most = [best_of(prompt.truth, prompt.truth, n) for prompt in enough if prompt.truth is not None]
        found.append(
            Choice(
                n=n,
                prompts=len(enough),
                kl=kl_bound(n),
                chosen=[_chosen(enough, how, n, weigh) for how in hows],
                oracle=float(np.mean(most)) if most else None,
            )
        )
    return found


def selection(file: str, prompts: Sequence[Prompt], found: list[Choice], truth: str, answer: str) -> Selection:
    """The report. answer: the rule, "" where nobody votes."""
    return Selection(
        file=file,
        prompts=len(prompts),
        completions=sum(len(prompt.places) for prompt in prompts),
        truth=truth,
        answer=answer,
        unanswered=sum(int((prompt.answers < 0).sum()) for prompt in prompts) if answer else 0,
        intervals=f"95 %, bootstrap over prompts, {DRAWS:,} draws",
        subsets=f"all subsets of n completions, or {SUBSETS:,} random ones where there are more" if answer else "",
        choices=found,
    )


def usual(prompts: Sequence[Prompt]) -> list[int]:
    """1, 2, 4, 8 ... as far as every prompt goes."""
    return powers(min(len(prompt.places) for prompt in prompts))


def pick(prompt: Prompt, how: How, weigh: Weigh) -> int:
    """The place in its row of the completion that is chosen among all. Of an answer it is the best-scored; what ties is
    decided by score, then by the alphabet, never by the order of the row."""
    scores = np.zeros(len(prompt.places)) if prompt.scores is None else prompt.scores
    among = np.arange(len(prompt.places))
    if how != "best" and (prompt.answers >= 0).any():
        weights = prompt.weights(how, weigh)
        best: tuple[float, float] = (-1.0, 0.0)
        for answer in range(len(prompt.said)):
            gave = np.flatnonzero(prompt.answers == answer)
            stand = float(weights[gave].sum()), float(scores[gave].max())
            if stand > best:
                best, among = stand, gave
    return prompt.places[int(among[scores[among].argmax()])]


def truth_of(row: Row, name: str, read: Answers) -> Array:
    """What is true of each completion: a field of numbers, or for "answers" whether it answers as the known answer
    does. Raises BadValue."""
    if name != "answers":
        return np.array(numbers(row, name))
    known = words(field(row, "answers"))
    if known is None:
        raise BadValue('"answers" is not text')
    answer = read(known) or canonical(known)
    return np.array([float(read(text) == answer) for text in row.texts])


def gold_of(gold: Scored, scores: str) -> Truths:
    """The truth of completions by the scores of another file, found by id and text, whatever their order."""

    def known(row: Row) -> dict[str, float]:
        return dict(zip(row.texts, numbers(row, scores), strict=True))

    found = dict(zip((name for name, _ in numbered(gold.rows)), gold.each(known), strict=True))

    def truth(name: str, row: Row) -> Array:
        if name not in found:
            raise BadValue(f'{gold.origin} has no prompt "{name}"')
        if lacking := [at for at, text in enumerate(row.texts, 1) if text not in found[name]]:
            raise BadValue(f'{gold.origin} has other completions for "{name}": not completion {lacking[0]}')
        return np.array([found[name][text] for text in row.texts])

    return truth


def _prompt(name: str, row: Row, scores: str | None, truth: Truths | None, read: Answers) -> Prompt:
    order = sorted(range(len(row.texts)), key=lambda at: row.texts[at])
    answers = [read(row.texts[at]) for at in order]
    said = sorted({answer for answer in answers if answer is not None})
    return Prompt(
        name,
        row,
        order,
        np.array(numbers(row, scores))[order] if scores else None,
        truth(name, row)[order] if truth else None,
        np.array([-1 if answer is None else said.index(answer) for answer in answers], dtype=np.int64),
        said,
    )


def _chosen(prompts: Sequence[Prompt], how: How, n: int, weigh: Weigh) -> Chosen:
    worth: list[float] = []
    score: list[float] = []
    for prompt in prompts:
        if how == "best" and prompt.scores is not None:
            score.append(best_of(prompt.scores, prompt.scores, n))
        if prompt.truth is None:
            continue
        if how == "best":
            assert prompt.scores is not None
            worth.append(best_of(prompt.scores, prompt.truth, n))
        else:
            worth.append(vote(prompt.answers, prompt.weights(how, weigh), prompt.truth, n, prompt.name))
    return Chosen(
        how=how,
        truth=mean_of(np.array(worth)) if worth else None,
        score=float(np.mean(score)) if score else None,
    )


def _fits(prompts: Sequence[Prompt], hows: Sequence[How], ns: Sequence[int], weigh: Weigh) -> None:
    bad: list[Problem] = []
    most = max(len(prompt.places) for prompt in prompts)
    bad += [
        Problem("--n", f"no prompt has {n} completions", f"the largest has {most}") for n in ns if not 1 <= n <= most
    ]
    if "weighted-vote" in hows:
        mend = "--weigh sigmoid or --weigh softmax makes weights of scores"
        for prompt in prompts:
            weights = prompt.weights("weighted-vote", weigh)
            if (weights < 0).any():
                what = f"a score of {weights.min():g} cannot be the weight of a vote"
                bad.append(Problem(prompt.row.where, what, mend))
                break
    if bad:
        raise UserError(bad)


def written(prompt: Prompt, how: How, weigh: Weigh) -> dict[str, Any]:
    """The chosen completion as a demonstration: a row that a source of JSON lines reads."""
    place = pick(prompt, how, weigh)
    values = prompt.row.values
    row: dict[str, Any] = {"id": prompt.name, "prompt": values["prompt"], "completion": values["completions"][place]}
    at = list(prompt.places).index(place)
    if prompt.scores is not None:
        row["score"] = float(prompt.scores[at])
    if prompt.truth is not None:
        row["truth"] = float(prompt.truth[at])
    if isinstance(values.get("metadata"), dict):
        row["metadata"] = values["metadata"]
    return row
