"""When numbers look wrong: one short function per alarm.

A rule says how strong its sign is: at 1 the threshold is reached, below one half the numbers are well. It says nothing
where a phase does not report what it looks at. Beyond its threshold, what is seen must be larger than chance makes it:
5 standard errors of a difference in training, 3 of a correlation, 2 of a share of right answers. On training numbers
that were noise alone, displacement was raised in 4 runs of 1,000 at 30 steps and in 1 at 200, the other alarms never.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any, NamedTuple

from truing_monitor.history import FEWEST, Change, History
from truing_monitor.plugin import AlarmName, PreferenceMonitor

CHOSEN, REJECTED, MARGIN = "logprob/chosen", "logprob/rejected", "margin"
LENGTH, ACCURACY, GRADIENT = "length/correlation", "accuracy", "gradient_norm"

_ERRORS = 5.0
_CORRELATION_ERRORS = 3.0
_ACCURACY_ERRORS = 2.0
_RISEN = 0.1
"""by how much a correlation must have grown to be of this training's making"""


class Sign(NamedTuple):
    """How strong a sign is, 1 at the threshold, with a sentence and the numbers it is seen in."""

    strength: float
    text: str
    values: Mapping[str, float]


Rule = Callable[[History, Any], Sign | None]
"""Handed the options of its monitor."""


def displacement(history: History, options: PreferenceMonitor) -> Sign | None:
    """Chosen answers become less likely while the margin grows."""
    signs = list(_displaced(history, options.displacement))
    return max(signs, key=lambda sign: sign.strength) if signs else None


def _displaced(history: History, threshold: float) -> Iterator[Sign]:
    for where, change_of in places(history):
        chosen, margin = change_of(CHOSEN), change_of(MARGIN)
        if chosen and margin:
            text = (
                f"{where}, the log-probability of the chosen answers fell from {chosen.first:.4g} to {chosen.last:.4g} "
                f"while the margin grew from {margin.first:.3g} to {margin.last:.3g}; the losses dpop and nca, "
                "or an sft_weight, hold it up"
            )
            strength = fall(chosen, threshold) if margin.last > margin.first else 0.0
            yield Sign(strength, text, {**told(CHOSEN, chosen), **told(MARGIN, margin)})


def collapse(history: History, options: PreferenceMonitor) -> Sign | None:
    """Chosen and rejected answers both become much less likely: the model says something else."""
    signs = list(_collapsed(history, options.collapse))
    return max(signs, key=lambda sign: sign.strength) if signs else None


def _collapsed(history: History, threshold: float) -> Iterator[Sign]:
    for where, change_of in places(history):
        chosen, rejected = change_of(CHOSEN), change_of(REJECTED)
        if chosen and rejected:
            text = (
                f"{where}, the log-probability of chosen answers fell from {chosen.first:.4g} to {chosen.last:.4g} and "
                f"that of rejected ones from {rejected.first:.4g} to {rejected.last:.4g}: the model moves to answers "
                "that are in neither; a smaller rate, a larger beta, or an sft_weight holds them"
            )
            strength = min(fall(chosen, threshold), fall(rejected, threshold))
            yield Sign(strength, text, {**told(CHOSEN, chosen), **told(REJECTED, rejected)})


def length_bias(history: History, options: PreferenceMonitor) -> Sign | None:
    """On the holdout the implicit reward has come to go with length."""
    series, looks = history.looked[LENGTH], history.looked[ACCURACY].steps
    if not series.values or len(looks) < 2:
        return None
    # A policy that is its own reference has rewards of 0, which go with nothing.
    first, last = series.values[0] if series.steps[0] == looks[0] else 0.0, series.values[-1]
    threshold = max(options.length_bias, _CORRELATION_ERRORS / math.sqrt(history.held) if history.held else 0.0)
    grown = math.copysign(1.0, last) * (last - first)
    strength = max(0.0, min(abs(last) / threshold, grown / _RISEN))
    text = (
        f"held out, the correlation of reward with length went from {first:.2f} to {last:.2f}: "
        f"{'longer' if last > 0 else 'shorter'} answers are liked as such; r-dpo and simpo learn less of it"
    )
    return Sign(strength, text, told(LENGTH, Change(first, last)))


def overfitting(history: History, options: PreferenceMonitor) -> Sign | None:
    """Held-out accuracy falls while that of training does not."""
    looks = history.looked[ACCURACY]
    if len(looks.values) < 2:
        return None
    best = max(looks.values)
    when, last = looks.steps[looks.values.index(best)], looks.values[-1]
    before, now = history.level(ACCURACY, when), history.level(ACCURACY, looks.steps[-1])
    if before is None or now is None:
        return None
    threshold = max(options.overfitting, _ACCURACY_ERRORS / math.sqrt(history.held) if history.held else 0.0)
    text = (
        f"held-out accuracy fell from {best:.3f} at step {when} to {last:.3f} while that of training went from "
        f"{before:.3f} to {now:.3f}; fewer epochs, a smaller rate, or the loss ipo"
    )
    values = {"holdout/accuracy/best": best, "holdout/accuracy": last, "accuracy/then": before, "accuracy": now}
    return Sign((best - last) / threshold if now >= before else 0.0, text, values)


def gradient_spike(history: History, options: PreferenceMonitor) -> Sign | None:
    """The last step's gradient is far larger than those before."""
    norms = history.trained[GRADIENT].values
    if len(norms) <= FEWEST:
        return None
    usual, last = median(norms[-history.window - 1 : -1]), norms[-1]
    if usual <= 0:
        return None
    text = f"the norm of the gradient is {last:.3g}, {last / usual:.0f} times the usual {usual:.3g}"
    return Sign(last / usual / options.gradient_spike, text, {GRADIENT: last, f"{GRADIENT}/usual": usual})


RULES: Mapping[AlarmName, Rule] = {
    "displacement": displacement,
    "collapse": collapse,
    "length-bias": length_bias,
    "overfitting": overfitting,
    "gradient-spike": gradient_spike,
}


def places(history: History) -> tuple[tuple[str, Callable[[str], Change | None]], ...]:
    """Where a number may have changed, in words, and how it is asked for."""
    return ("held out", history.on_holdout), ("in training", history.in_training)


def fall(change: Change, threshold: float) -> float:
    """How strong a fall is, as a share of where it began and against chance; the weaker of the two."""
    lost = change.first - change.last
    if lost <= 0 or change.first == 0:
        return 0.0
    return min(lost / abs(change.first) / threshold, against_chance(change))


def against_chance(change: Change) -> float:
    """How large a change is against what chance makes of it: 1 at 5 standard errors."""
    return abs(change.last - change.first) / (_ERRORS * change.error) if change.error else math.inf


def told(key: str, change: Change) -> dict[str, float]:
    """The numbers of a change, for an alarm."""
    return {f"{key}/first": change.first, key: change.last}
