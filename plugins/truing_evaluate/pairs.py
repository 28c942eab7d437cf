"""A reward model on pairs: the comparisons of a file as flat arrays, and the report that is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from truing.errors import Problem, UserError
from truing_evaluate.calibration import by_width, calibration, error, folded, nll
from truing_evaluate.intervals import Array, Whole, mean_of, resampled, share_of, sums_of
from truing_evaluate.lengths import credit, lengths
from truing_evaluate.rows import BadValue, Row, Scored, field, numbers, told
from truing_evaluate.sections import WEIGHTS, pooled, rewardbench
from truing_evaluate.shapes import Category, Figure, Margins, Pairwise, Rankings, Sections, Votes

REWARDBENCH = "rewardbench"
SMALL = 0.1
_COLUMNS = 20


@dataclass(frozen=True)
class Pairs:
    """Comparisons laid end to end, [pair]. The better completion comes first; where votes say otherwise it was turned
    round.

    better, worse: scores; longer: characters of the better minus those of the worse; group: the row of each; votes: the
    share of votes for the better, None where the file has none; texts: of the better and the worse; names: what each is
    under the keys that were asked for.
    """

    better: Array
    worse: Array
    longer: Array
    group: Whole
    votes: Array | None
    texts: Sequence[tuple[str, str]]
    names: Mapping[str, Sequence[str]]

    @property
    def margins(self) -> Array:
        """Score of the better minus that of the worse; [pair]"""
        return self.better - self.worse

    def only(self, some: Any) -> Pairs:
        """Those of a mask or of places."""
        kept: list[int] = np.arange(len(self.better))[some].tolist()
        return Pairs(
            self.better[kept],
            self.worse[kept],
            self.longer[kept],
            self.group[kept],
            None if self.votes is None else self.votes[kept],
            [self.texts[at] for at in kept],
            {key: [names[at] for at in kept] for key, names in self.names.items()},
        )


def pairs_of(data: Scored, scores: str, keys: Sequence[str]) -> Pairs:
    """The pairs of a file, or all that its ranks make. Raises UserError naming every row that is wrong."""
    voted = data.has("soft", "pairs")
    found = data.each(lambda row: _pairs(row, scores, keys, voted))
    flat = [pair for row in found for pair in row]
    if not flat:
        raise UserError(
            Problem(data.origin, "no row has a pair", "a pair is [better, worse], two places in completions")
        )
    return Pairs(
        better=np.array([pair.better for pair in flat]),
        worse=np.array([pair.worse for pair in flat]),
        longer=np.array([float(len(pair.texts[0]) - len(pair.texts[1])) for pair in flat]),
        group=np.array([at for at, row in enumerate(found) for _ in row], dtype=np.int64),
        votes=np.array([pair.share for pair in flat]) if voted else None,
        texts=[pair.texts for pair in flat],
        names={key: [pair.names[at] for pair in flat] for at, key in enumerate(keys)},
    )


def pairwise(data: Scored, scores: str, keys: Sequence[str], sections: str | None) -> Pairwise:
    """The report. sections: REWARDBENCH, or the key that names each pair's section; then the first of `keys` its
    category."""
    wanted = [*keys, *([sections] if sections not in (None, REWARDBENCH) else [])]
    every = pairs_of(data, scores, wanted)
    targets = np.ones_like(every.better) if every.votes is None else every.votes
    pairs = every if every.votes is None else every.only(every.votes != 0.5)
    if not len(pairs.better):
        raise UserError(
            Problem(data.origin, "every pair has half of the votes on each side", "nothing can be right here")
        )
    right = credit(pairs.margins)
    return Pairwise(
        pairs=len(every.better),
        prompts=len(np.unique(every.group)),
        ties=int((pairs.margins == 0).sum()),
        undecided=len(every.better) - len(pairs.better),
        accuracy=share_of((right == 1).astype(float), pairs.group),
        half_credit=share_of(right, pairs.group),
        calibration=calibration(every.margins, targets, every.group, len(data.rows), every.votes is not None),
        margins=margins(every),
        lengths=lengths(right, pairs.margins, pairs.longer, pairs.group),
        votes=against_votes(every),
        rankings=rankings(data, scores),
        by={key: categories(pairs, key) for key in keys},
        worst={key: worst(pairs, key) for key in keys},
        sections=_sections(pairs, keys, sections) if sections else None,
    )


def margins(pairs: Pairs) -> Margins:
    """How far apart the scores of pairs are, with a histogram."""
    counts, edges = np.histogram(pairs.margins, bins=min(_COLUMNS, max(1, len(np.unique(pairs.margins)))))
    return Margins(
        mean=float(pairs.margins.mean()),
        deviation=float(pairs.margins.std()),
        small=float((np.abs(pairs.margins) < SMALL).mean()),
        better=float(pairs.better.mean()),
        worse=float(pairs.worse.mean()),
        edges=edges.tolist(),
        counts=counts.tolist(),
    )


def against_votes(pairs: Pairs) -> Votes | None:
    """Agreement with a single vote, and with what it can be at most; None without votes."""
    if pairs.votes is None:
        return None
    won = credit(pairs.margins)
    accuracy = share_of(won * pairs.votes + (1 - won) * (1 - pairs.votes), pairs.group)
    ceiling = share_of(np.maximum(pairs.votes, 1 - pairs.votes), pairs.group)
    return Votes(accuracy=accuracy, ceiling=ceiling, of_ceiling=accuracy.value / ceiling.value)


def categories(pairs: Pairs, key: str) -> list[Category]:
    """Accuracy for every name under a key, in the order of the names."""
    names = np.array(pairs.names[key])
    found: list[Category] = []
    for name in sorted(set(pairs.names[key])):
        some = pairs.only(names == name)
        right = credit(some.margins)
        targets = np.ones_like(right) if some.votes is None else some.votes
        sure = folded(some.margins, targets)
        found.append(
            Category(
                name=name,
                pairs=len(right),
                prompts=len(np.unique(some.group)),
                accuracy=share_of((right == 1).astype(float), some.group),
                half_credit=float(right.mean()),
                longer_wins=float(credit(some.longer).mean()),
                nll=float(nll(some.margins, targets).mean()),
                ece=error(*sure, by_width(sure[0])),
            )
        )
    return found


def worst(pairs: Pairs, key: str) -> Figure:
    """The least half-credit accuracy of any category under a key, as it would be of other prompts, too."""
    names = sorted(set(pairs.names[key]))
    inside = np.array([[name == other for other in names] for name in pairs.names[key]], dtype=float)
    right = inside * credit(pairs.margins)[:, None]
    places = np.unique(pairs.group, return_inverse=True)[1]
    sums = sums_of(np.concatenate([right, inside], 1), places, int(places.max()) + 1)

    def least(drawn: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.fmin.reduce(drawn[:, : len(names)] / drawn[:, len(names) :], axis=1)

    return resampled(sums, least)


def rankings(data: Scored, scores: str) -> Rankings | None:
    """How well scores order what people put in order; None if no prompt has more than two completions ranked."""
    found = [both for both in data.each(lambda row: _ranking(row, scores)) if both is not None]
    if not found:
        return None
    top: list[float] = []
    for some, ranks in found:
        first = some == some.max()
        top.append(float((ranks[first] == ranks.min()).mean()))
    taus = np.array([tau for some, ranks in found if (tau := tau_b(some, -ranks)) is not None])
    return Rankings(
        prompts=len(found),
        top=mean_of(np.array(top)),
        random=float(np.mean([(ranks == ranks.min()).mean() for _, ranks in found])),
        tau=mean_of(taus) if len(taus) else None,
    )


def tau_b(one: Array, other: Array) -> float | None:
    """Kendall's tau-b; None where one of them is all ties. one, other [completion]"""
    above = np.triu_indices(len(one), 1)
    signs = [np.sign(some[above[0]] - some[above[1]]) for some in (one, other)]
    untied = float(np.abs(signs[0]).sum() * np.abs(signs[1]).sum())
    return float((signs[0] * signs[1]).sum()) / untied**0.5 if untied else None


def _sections(pairs: Pairs, keys: Sequence[str], sections: str) -> Sections:
    """Sections of the categories under the first key. A category of two sections is measured in each on its own
    pairs."""
    if sections == REWARDBENCH:
        accuracy = {category.name: category.accuracy.value for category in categories(pairs, keys[0])}
        if not accuracy.keys() & {subset for subsets in WEIGHTS.values() for subset in subsets}:
            what = f'no "{keys[0]}" in this file is one of RewardBench\'s subsets'
            raise UserError(Problem("--sections", what, "name the key that has them with the first --by"))
        return rewardbench(accuracy)
    names = np.array(pairs.names[sections])
    parts = {name: categories(pairs.only(names == name), keys[0]) for name in sorted(set(pairs.names[sections]))}
    inside = {(name, category.name): category for name, some in parts.items() for category in some}
    return pooled(
        {f"{name}/{category}": found.accuracy.value for (name, category), found in inside.items()},
        {f"{name}/{category}": found.pairs for (name, category), found in inside.items()},
        {name: [f"{name}/{category.name}" for category in some] for name, some in parts.items()},
    )


class Pair(NamedTuple):
    """One comparison. share: of the votes, for the better."""

    better: float
    worse: float
    share: float
    texts: tuple[str, str]
    names: Sequence[str]


def _pairs(row: Row, scores: str, keys: Sequence[str], voted: bool) -> list[Pair]:
    places = _places(row)
    values = _values(row, scores, places)
    votes = numbers(row, "soft", places, "pairs") if voted and places else [1.0] * len(places)
    names = [_names(row, key, places) for key in keys]
    found: list[Pair] = []
    for at, ((better, worse), share) in enumerate(zip(places, votes, strict=True)):
        if not 0 <= share <= 1:
            raise BadValue(f'"soft", entry {at + 1} is {share:g}, not a share of votes')
        if share < 0.5:
            better, worse, share = worse, better, 1 - share
        texts = row.texts[better], row.texts[worse]
        found.append(Pair(values[at][better], values[at][worse], share, texts, [some[at] for some in names]))
    return found


def _values(row: Row, scores: str, places: Sequence[Any]) -> list[list[float]]:
    """The scores of a row's completions for each pair. `{key}` in their name is what the pair is called under a key."""
    key = _asked_for(scores)
    if not key:
        return [numbers(row, scores)] * len(places)
    names = _names(row, key, places)
    found = {name: numbers(row, scores.replace(f"{{{key}}}", name)) for name in set(names)}
    return [found[name] for name in names]


def _asked_for(scores: str) -> str:
    """The key in the name of the scores, "" if there is none."""
    return scores.partition("{")[2].partition("}")[0]


def _places(row: Row) -> list[tuple[int, int]]:
    """Places of the better and the worse completion of each pair: as the row says, else all that its ranks make; a
    phase that finds no pair in a group writes none."""
    count = len(row.texts)
    if "pairs" in row.values:
        pairs = field(row, "pairs")
        if not isinstance(pairs, list):
            raise BadValue('"pairs" is not a list of [better, worse]')
        for pair in pairs:
            whole = isinstance(pair, list) and len(pair) == 2 and all(type(place) is int for place in pair)
            if not whole or pair[0] == pair[1] or not all(0 <= place < count for place in pair):
                raise BadValue(f'"pairs" has {pair}', f"a pair is two places among {count} completions, counted from 0")
        return [(better, worse) for better, worse in pairs]
    if "rank" not in row.values:
        return []
    ranks = numbers(row, "rank")
    return [(one, other) for one in range(count) for other in range(count) if ranks[one] < ranks[other]]


def _names(row: Row, key: str, places: Sequence[Any]) -> list[str]:
    """What each pair of a row is called under a key: by an entry of its own, or by the row's."""
    value = row.values.get(key)
    if not isinstance(value, list):
        return [told(row, key)] * len(places)
    if len(value) != len(places):
        raise BadValue(f'"{key}" has {len(value)} entries for {len(places)} pairs')
    return [str(name) for name in value]


def _ranking(row: Row, scores: str) -> tuple[Array, Array] | None:
    """Scores and ranks of a row with more than two completions that are ranked, or of one that beats all others."""
    if len(row.texts) < 3 or _asked_for(scores):
        return None
    values = np.array(numbers(row, scores))
    if "rank" in row.values:
        return values, np.array(numbers(row, "rank"))
    places = _places(row)
    losers = {worse for _, worse in places}
    winners = {better for better, _ in places}
    if winners & losers or len(winners | losers) < len(row.texts) or len(places) < len(winners) * len(losers):
        return None
    return values, np.array([float(at in losers) for at in range(len(row.texts))])
