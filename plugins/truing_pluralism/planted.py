"""People who are made up: what each group likes, who belongs to which, and what they prefer."""

from __future__ import annotations

import math
import random
from functools import cached_property

from truing.fields import ANNOTATOR, STRATUM, Group
from truing.run import Run
from truing_pluralism.menu_planted import PlantedAnnotators
from truing_tensor.made_up import MadeUp

PROMPT = "Write some letters."


def planted(spec: PlantedAnnotators, run: Run) -> MadeUp:
    """The source of a `planted-annotators` spec."""
    return MadeUp(spec, run, PlantedPeople(spec).groups)


class PlantedPeople:
    """Groups, annotators and what they think, all by the options."""

    def __init__(self, spec: PlantedAnnotators) -> None:
        self.spec = spec

    @cached_property
    def worth(self) -> dict[str, list[float]]:
        """What each letter is worth to each group: of mean 0 and mean square 1, and correlated with the first group's
        as the options say."""
        chance = random.Random(f"worth/{self.spec.seed}/{self.spec.letters}")
        found: dict[str, list[float]] = {}
        first: list[float] = []
        for name in self.spec.strata:
            own = _standard([chance.gauss(0, 1) for _ in range(self.spec.letters)])
            if first:
                along = sum(one * other for one, other in zip(own, first, strict=True)) / self.spec.letters
                apart = _standard([one - along * other for one, other in zip(own, first, strict=True)])
                with_first, across = self.spec.agreement, math.sqrt(1 - self.spec.agreement**2)
                own = [with_first * one + across * other for one, other in zip(first, apart, strict=True)]
            first = first or own
            found[name] = own
        return found

    @cached_property
    def strata(self) -> list[str]:
        """The group of each annotator, as many of each as its share says."""
        shares, whole = self.spec.strata, sum(self.spec.strata.values())
        found = [
            name for name, share in shares.items() for _ in range(max(1, round(share / whole * self.spec.annotators)))
        ]
        while len(found) < self.spec.annotators:
            found.append(next(iter(shares)))
        return found[: self.spec.annotators]

    def utility(self, text: str, stratum: str) -> float:
        """What a string is worth to a group; letters that are none are worth nothing."""
        worth = self.worth[stratum]
        at = [ord(letter) - ord("a") for letter in text]
        return sum(worth[place] for place in at if 0 <= place < len(worth)) / math.sqrt(max(1, len(text)))

    def groups(self) -> list[Group]:
        """The comparisons that the options ask for, or strings alone."""
        return [self._group(number) for number in range(self.spec.skip, self.spec.skip + self.spec.size)]

    def _group(self, number: int) -> Group:
        chance = random.Random(f"pair/{self.spec.seed}/{number}")
        first, second = self._string(chance), self._string(chance)
        while second == first:
            second = self._string(chance)
        name = f"planted-{self.spec.seed}-{number}"
        prompt = [{"role": "user", "content": PROMPT}]
        if not self.spec.pairs:
            return Group(id=name, prompt=prompt, completions=[_said(first)])
        annotator = number % self.spec.annotators
        stratum = self.strata[annotator]
        ahead = (self.utility(first, stratum) - self.utility(second, stratum)) / self.spec.noise
        if chance.random() >= 1 / (1 + math.exp(-ahead)):
            first, second = second, first
        return Group(
            id=name,
            prompt=prompt,
            completions=[_said(first), _said(second)],
            pairs=[(0, 1)],
            extra={ANNOTATOR: [f"annotator-{annotator}"], STRATUM: [stratum]},
        )

    def _string(self, chance: random.Random) -> str:
        return "".join(chr(ord("a") + chance.randrange(self.spec.letters)) for _ in range(self.spec.length))


def _standard(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    apart = [value - mean for value in values]
    size = math.sqrt(sum(value * value for value in apart) / len(apart))
    return [value / size for value in apart]


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
