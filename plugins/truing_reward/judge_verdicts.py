"""What becomes of verdicts: probabilities of labels, preferences of both orders, scores, and how far to trust them.

A comparison is asked twice, each answer first once. What is believed is the mean of both (arXiv:2309.00267, section
2.2.1): a judge that likes what comes first says the same of either order, and that cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

GIVEN = -1
"""The place of the answer that came with the prompt."""
_LEAST = 1e-3
"""What a probability is held away from 0 and 1 by before its log-odds are taken."""


class Verdict(NamedTuple):
    """What a judge says to one question. chances: of each label, together 1; empty where there is no verdict. mass: the
    probability of all labels together. missing: why there is no verdict. tokens: read and written for it. said: what
    the judge was about to say instead, as far as that is known."""

    chances: tuple[float, ...]
    mass: float
    tokens: int = 0
    missing: str = ""
    said: str = ""


def verdict(chances: Sequence[float], least: float, tokens: int, said: str = "") -> Verdict:
    """A verdict of the probabilities of all labels. Where they have less than `least` together there is none: the judge
    was about to say something else."""
    mass = sum(chances)
    if mass < least or mass <= 0:
        return Verdict((), mass, tokens, "unclear", said)
    return Verdict(tuple(chance / mass for chance in chances), mass, tokens, said=said)


def averaged(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of several to the same question, each with a reasoning of its own: the mean of those that are
    verdicts."""
    tokens = sum(each.tokens for each in verdicts)
    found = [each for each in verdicts if each.chances]
    if not found:
        return verdicts[0]._replace(tokens=tokens)
    count = len(found)
    mean = tuple(sum(some) / count for some in zip(*(each.chances for each in found), strict=True))
    return Verdict(mean, sum(each.mass for each in found) / count, tokens)


def exclusive(chances: Sequence[float], spelled: Sequence[Sequence[int]]) -> list[float]:
    """The probability that each label is said and no longer one, of the probabilities that each is begun with.

    chances: that the text goes on with the tokens of a label. Where those of one label begin another, 1 and 10 of a
    tokenizer that writes digits one by one, what goes on to the longer one is no verdict for the shorter.
    """
    found: list[float] = []
    for chance, mine in zip(chances, spelled, strict=True):
        longer = [at for at, other in enumerate(spelled) if len(other) > len(mine) and _begins(mine, other)]
        # Only the next ones: what goes on to a longer one yet is a part of them.
        next_ones = [at for at in longer if not any(at != via and _begins(spelled[via], spelled[at]) for via in longer)]
        found.append(max(0.0, chance - sum(chances[at] for at in next_ones)))
    return found


def _begins(beginning: Sequence[int], whole: Sequence[int]) -> bool:
    return list(whole[: len(beginning)]) == list(beginning)


@dataclass(frozen=True)
class Comparison:
    """Two answers compared in both orders. first, second: their places in the batch, or GIVEN. forward: the verdict
    with `first` as answer A; backward: with `second` as answer A."""

    first: int
    second: int
    criterion: str
    forward: Verdict
    backward: Verdict

    @property
    def known(self) -> bool:
        """Whether there is a verdict in both orders."""
        return bool(self.forward.chances and self.backward.chances)

    @property
    def orders(self) -> tuple[float, float]:
        """The probability that the first is better as each order has it; a tie is half of one."""
        return first_better(self.forward.chances), 1 - first_better(self.backward.chances)

    @property
    def prefer(self) -> float:
        """The probability that the first is better: the mean of both orders; one half without both verdicts."""
        return sum(self.orders) / 2 if self.known else 0.5

    def told(self) -> dict[str, float]:
        """What is reported of a comparison.

        consistency: whether both orders hold the same answer to be better. first_choice: how often the answer shown
        first is chosen, of two times; one half for a judge that does not mind the order. position_bias: by how much
        being shown first raises the log-odds. mass: the probability that it says any label. missing: of the two
        verdicts. tie: the probability of neither, where that may be said.
        """
        both = (self.forward, self.backward)
        found = {
            "missing": sum(not each.chances for each in both) / 2,
            "mass": sum(each.mass for each in both) / 2,
            "judge_tokens": float(sum(each.tokens for each in both)),
        }
        if not self.known:
            return found
        forward, backward = self.orders
        shown_first = (forward, 1 - backward)
        found["consistency"] = float(_side(forward) == _side(backward))
        found["first_choice"] = sum((_side(chance) + 1) / 2 for chance in shown_first) / 2
        found["position_bias"] = sum(map(log_odds, shown_first)) / 2
        if len(self.forward.chances) == 3:
            found["tie"] = sum(each.chances[2] for each in both) / 2
        return found

    def row(self, members: Sequence[int]) -> dict[str, Any]:
        """What is kept of it. members: the places of the group's completions, by which it names them."""
        both = (self.forward, self.backward)
        return {
            "first": members.index(self.first),
            "second": None if self.second == GIVEN else members.index(self.second),
            "criterion": self.criterion,
            "prefer": self.prefer if self.known else None,
            "forward": list(self.forward.chances),
            "backward": list(self.backward.chances),
            "mass": [each.mass for each in both],
            "missing": [each.missing for each in both],
            "tokens": sum(each.tokens for each in both),
        }


@dataclass(frozen=True)
class Rating:
    """What is said of one answer by itself."""

    criterion: str
    verdict: Verdict

    def told(self) -> dict[str, float]:
        """What is reported of a rating: its spread, the standard deviation in points; the rest as of a comparison."""
        each = self.verdict
        found = {"missing": float(not each.chances), "mass": each.mass, "judge_tokens": float(each.tokens)}
        return {**found, "spread": spread(each.chances)} if each.chances else found

    def row(self, place: int) -> dict[str, Any]:
        """What is kept of it. place: that of the completion in its group."""
        each = self.verdict
        return {
            "completion": place,
            "criterion": self.criterion,
            "chances": list(each.chances),
            "mass": each.mass,
            "missing": each.missing,
            "tokens": each.tokens,
        }


def first_better(chances: Sequence[float]) -> float:
    """The probability that answer A is better, of those of A, B and maybe neither: a tie counts half."""
    return chances[0] + (chances[2] / 2 if len(chances) == 3 else 0.0)


def log_odds(chance: float) -> float:
    """The log-odds of a probability, in nats, that is held a little away from 0 and 1."""
    held = min(max(chance, _LEAST), 1 - _LEAST)
    return math.log(held / (1 - held))


def _side(chance: float) -> int:
    return (chance > 0.5) - (chance < 0.5)


def win_rates(comparisons: Sequence[Comparison], members: Sequence[int]) -> dict[int, float]:
    """Of each answer of a group, the mean probability that it is better than another of them.

    Answers that say the same, and those whose comparison has no verdict, win half the time. Where all were compared
    with the answer that came with the prompt, it is the probability to be better than that.
    """
    given = any(each.second == GIVEN for each in comparisons)
    meetings = 1 if given else len(members) - 1
    lead = dict.fromkeys(members, 0.0)
    for each in comparisons:
        lead[each.first] += each.prefer - 0.5
        if not given:
            lead[each.second] -= each.prefer - 0.5
    return {member: 0.5 + lead[member] / max(1, meetings) for member in members}


def points_of(chances: Sequence[float]) -> float:
    """The expected points, 1 to K, laid out from -1 to 1 (direct RLAIF, arXiv:2309.00267, section 2.2.3)."""
    expected = sum(number * chance for number, chance in enumerate(chances, 1))
    return 2 * (expected - 1) / (len(chances) - 1) - 1


def spread(chances: Sequence[float]) -> float:
    """The standard deviation of a rating, in points."""
    mean = sum(number * chance for number, chance in enumerate(chances, 1))
    return sum((number - mean) ** 2 * chance for number, chance in enumerate(chances, 1)) ** 0.5


def means(told: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number over those that have it."""
    names = {name: None for each in told for name in each}
    found: dict[str, float] = {}
    for name in names:
        values = [each[name] for each in told if name in each]
        found[name] = sum(values) / len(values)
    return found
