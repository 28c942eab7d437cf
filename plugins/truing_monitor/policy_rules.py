"""When a policy that learns from its samples goes wrong: one short function per alarm.

As in `rules`: a sign of 1 is at its threshold. What is sampled differs from step to step, on the holdout too, so a
change must be 5 standard errors: of a difference between the means of many steps, or, where there are only looks at
the holdout, of a difference between looks that waver as much as they do from one to the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from statistics import fmean, median

from truing_monitor.history import FEWEST, Change, History
from truing_monitor.menu_policy import PolicyAlarm, PolicyMonitor
from truing_monitor.rules import Rule, Sign, against_chance, fall, told

LENGTH, SCORE = "sample/length", "score"


def overoptimization(history: History, options: PolicyMonitor) -> Sign | None:
    """Gold falls below its best while what is learned from does not fall."""
    signs = [sign for sign in (_in_training(history, options), _on_holdout(history, options)) if sign]
    return max(signs, key=lambda sign: sign.strength) if signs else None


def _in_training(history: History, options: PolicyMonitor) -> Sign | None:
    key = f"score/{options.gold}"
    found, began = history.since_best(key), history.in_training(key)
    if found is None or began is None:
        return None
    gold, when = found
    score = history.level(SCORE, when), history.level(SCORE, history.trained[SCORE].steps[-1])
    return _fallen("in training", options, key, began.first, gold, when, (score[0] or 0.0, score[1] or 0.0))


def _on_holdout(history: History, options: PolicyMonitor) -> Sign | None:
    key = f"score/{options.gold}"
    gold, score = history.looked[key], history.looked[SCORE]
    if len(gold.values) < FEWEST or len(score.values) != len(gold.values):
        return None
    best = max(range(len(gold.values)), key=lambda at: gold.values[at])
    steps = [abs(after - before) for before, after in pairwise(gold.values)]
    # Half of the differences of a normal variable are smaller than 0.954 of its deviation.
    error = math.sqrt(2) * median(steps) / 0.954
    # The better one of the last two looks: one alone may be chance.
    change = Change(gold.values[best], max(gold.values[-2:]), error)
    scores = score.values[best], score.values[-1]
    return _fallen("held out", options, key, gold.values[0], change, gold.steps[best], scores)


def _fallen(
    where: str, options: PolicyMonitor, key: str, first: float, gold: Change, when: int, score: tuple[float, float]
) -> Sign:
    """Gold that was `first` at the beginning and lost something since its best, at step `when`."""
    gained, lost = gold.first - first, gold.first - gold.last
    # Gold that was never better than at first has nothing to lose a share of: any loss beyond chance counts.
    share = lost / (options.overoptimization * gained) if gained > 0 else math.inf if lost > 0 else 0.0
    strength = min(share, against_chance(gold)) if lost > 0 and score[1] >= score[0] else 0.0
    text = (
        f"{where}, {options.gold} fell from {gold.first:.3g} at step {when} to {gold.last:.3g} while the score went "
        f"from {score[0]:.3g} to {score[1]:.3g}: what is learned from is no longer what was meant; stop at the best "
        "with loop.until, hold the policy nearer to its reference, or collect comparisons of what it says now"
    )
    values = {**told(key, gold), f"{key}/start": first, f"{SCORE}/then": score[0], SCORE: score[1]}
    return Sign(strength, text, values)


def length_drift(history: History, options: PolicyMonitor) -> Sign | None:
    """Completions have become much longer, or much shorter."""
    change = history.in_training(LENGTH)
    if change is None or change.first <= 0:
        return None
    drift = abs(change.last - change.first) / change.first
    text = (
        f"in training, the length of completions went from {change.first:.3g} to {change.last:.3g} tokens: see whether "
        "what is learned from likes them for that"
    )
    return Sign(min(drift / options.length_drift, against_chance(change)), text, told(LENGTH, change))


def repetition(history: History, options: PolicyMonitor) -> Sign | None:
    """Completions say again what they have said."""
    key = f"score/{options.diversity}/repetition"
    change = history.in_training(key)
    if change is None:
        return None
    risen = max(0.0, change.last - change.first)
    text = f"in training, the share of repeated n-grams went from {change.first:.2f} to {change.last:.2f}"
    strength = min(risen / options.repetition, against_chance(change)) if risen else 0.0
    return Sign(strength, text, told(key, change))


def diversity_collapse(history: History, options: PolicyMonitor) -> Sign | None:
    """Completions of a prompt have become alike, or the policy sure of every token."""
    signs = list(_collapsed(history, options))
    return max(signs, key=lambda sign: sign.strength) if signs else None


def _collapsed(history: History, options: PolicyMonitor) -> Iterator[Sign]:
    name = f"score/{options.diversity}"
    said = {
        name: "the difference between completions of a prompt, 1 - self-BLEU,",
        f"{name}/distinct": "the share of different n-grams",
        f"{name}/entropy": "the entropy of the policy, in nats a token,",
    }
    for key, what in said.items():
        if change := history.in_training(key):
            text = (
                f"in training, {what} fell from {change.first:.3g} to {change.last:.3g}: the policy says one thing; a "
                "smaller rate, or a KL term to its reference, keeps it open"
            )
            yield Sign(fall(change, options.diversity_collapse), text, told(key, change))


def kl_budget(history: History, options: PolicyMonitor) -> Sign | None:
    """The policy is farther from its reference than it was to go."""
    key = f"score/{options.kl}"
    values = history.trained[key].values
    if options.kl_budget is None or len(values) < FEWEST:
        return None
    away = fmean(values[-FEWEST:])
    text = f"the policy is {away:.3g} nats a completion from its reference, and was to go {options.kl_budget:g}"
    return Sign(away / options.kl_budget, text, {key: away, f"{key}/budget": options.kl_budget})


POLICY_RULES: Mapping[PolicyAlarm, Rule] = {
    "overoptimization": overoptimization,
    "length-drift": length_drift,
    "repetition": repetition,
    "diversity-collapse": diversity_collapse,
    "kl-budget": kl_budget,
}
