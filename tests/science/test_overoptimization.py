"""Overoptimization by learning (arXiv:2210.10760): policies that please a proxy too well, and stops in time.

recipes/overoptimization.toml is run with gold labels of fresh samples of the policies that came of it. Best of n, in
which no claim hangs on one proxy's luck, is in `test_best_of_n`. Some minutes of one CPU core. TRUING_RUN names a run
that was made before, of which all is said again. Tables are printed, and written to the file that TRUING_TABLE names,
with a picture beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import pytest
from tests.science.children import figure, ran, rows, told, truing, where
from tests.science.stopped_best import GOLD, LENGTH, OTHER, PROBED, Rule

from truing.events import BestKept, Evaluated, StepDone
from truing.journal import Journal
from truing.until import Best, Mark, Until, Watch

RECIPE = Path(__file__).parents[2] / "recipes" / "overoptimization.toml"
LEARNED = ("rl-few", "rl-many")
JUDGED = ("sft", "rl-many", "rl-stopped")


def recipe() -> str:
    """The shipped recipe, and gold labels behind it."""
    text = RECIPE.read_text(encoding="utf-8").replace('[[observer]]\nuse = "mlflow"\n\n', "")
    return f"{text}\n" + "".join(judged(name) for name in JUDGED)


def judged(policy: str) -> str:
    """Gold labels of samples that nobody has seen, of a policy that was made."""
    return f"""
[phase.judged-{policy}.source]
use = "reasoning-gym"
tasks = ["spell_backward"]
options.spell_backward.max_word_len = 8
skip = 3200
size = 64

[phase.judged-{policy}.model]
use = "causal-lm"
path = "@{policy}"

[phase.judged-{policy}.generator]
use = "engine"
samples = 16
seats = 256
max_new_tokens = 16

[phase.judged-{policy}.loop]
batch = 16

[phase.judged-{policy}.scorer]
use = "reward-model"
path = "@gold"
scale = "normalised"
"""


class Stopped(NamedTuple):
    """What a rule came to: where it ends, the step whose policy it keeps, and what that is worth."""

    rule: str
    end: int
    step: int
    gold: float
    proxy: float
    kl: float


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run."""
    made = os.environ.get("TRUING_RUN", "")
    return Path(made) if made else ran(recipe(), tmp_path_factory.mktemp("overoptimization"))


@pytest.fixture(scope="module")
def courses(run: Path) -> Mapping[str, Any]:
    """What `truing overoptimize` says, by the name of the proxy or of the phase that learned."""
    return {course["name"]: course for course in told("overoptimize", str(run))["courses"]}


def test_a_policy_that_learns_away_from_gold_pleases_its_proxy_meanwhile(courses: Mapping[str, Any]) -> None:
    """Whether a policy comes to where its proxy is wrong is a matter of chance: one of the two did, each time."""
    fell = fallen(courses)
    assert fell["gain"]["low"] > 0
    assert fell["fall"]["low"] > 0
    assert fell["proxy_gain"]["low"] > 0


def test_a_stop_that_asks_gold_now_and_then_and_goes_back_ends_within_a_tenth_of_the_most_gold(
    run: Path, courses: Mapping[str, Any]
) -> None:
    """What other rules come to is in the table. The same looks say which is best and what that is worth: samples that
    none of them saw are the affair of the next test."""
    say(run, courses)
    course = fallen(courses)
    found = {stopped.rule: stopped for stopped in stops(run, course)}
    assert found[PROBED].gold >= 0.9 * course["gain"]["value"]
    assert found[PROBED].end < found["none"].end


def test_a_policy_that_was_stopped_and_went_back_is_worth_more_to_gold_than_one_that_was_not(run: Path) -> None:
    worth = {policy: fresh(run, policy) for policy in JUDGED}
    assert worth["rl-stopped"].mean > worth["rl-many"].mean


def fallen(courses: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the policies that learned, the one whose gold fell most."""
    return max((courses[name] for name in LEARNED), key=lambda course: course["fall"]["value"])


def last(course: Mapping[str, Any]) -> Mapping[str, Any]:
    return course["points"][-1]


# Rules that end learning, tried on what was reported: a phase that is ended early is the beginning of one that is not


def rules(length: float) -> list[Rule]:
    """length: of completions at first."""
    return [
        Rule("none", []),
        Rule(PROBED, [Until(metric=GOLD, patience=2)], Best(metric=GOLD)),
        Rule("gold, probed, less patience, and back", [Until(metric=GOLD, patience=1)], Best(metric=GOLD)),
        Rule("gold, probed", [Until(metric=GOLD, patience=2)]),
        Rule("held-out reward model, and back", [Until(metric=OTHER, patience=2)], Best(metric=OTHER)),
        *(
            Rule(f"KL budget, {budget} nats", [Until(metric="score/kl", above=float(budget))])
            for budget in (1, 2, 4, 8)
        ),
        Rule(
            "length, a quarter off",
            [
                Until(metric=LENGTH, above=1.25 * length),
                Until(metric=LENGTH, below=0.75 * length),
            ],
        ),
    ]


def stops(run: Path, course: Mapping[str, Any]) -> Iterator[Stopped]:
    """Where each rule ends a phase, and what the policy is worth there."""
    reported = of_phase(run, course["name"], StepDone | Evaluated)
    looks = [event for event in reported if isinstance(event, Evaluated)]
    for rule in rules(looks[0].metrics["sample/length"]):
        watch = Watch(rule.until, {})
        end = next(
            (event.step for event in reported if watch.enough(event.metrics, isinstance(event, Evaluated))),
            looks[-1].step,
        )
        mark: Mark | None = None
        for look in looks:
            if rule.best and look.step <= end:
                mark = rule.best.better(look.step, look.metrics, mark) or mark
        step = mark.step if mark else end
        yield Stopped(rule.name, end, step, *(worth(course, name, step) for name in ("gold", "proxy", "kl")))


def of_phase(run: Path, name: str, kinds: Any) -> list[Any]:
    """What a phase said of these kinds."""
    events = (event for _, event in Journal(run).events())
    return [event for event in events if isinstance(event, kinds) and event.phase == name]


def worth(course: Mapping[str, Any], name: str, step: int) -> float:
    """What the policy of a step is worth, on the line between the looks before and after it."""
    points = [(point["n"], point[name]["value"]) for point in course["points"]]
    for (before, low), (after, high) in pairwise(points):
        if before <= step <= after:
            return low + (high - low) * (step - before) / (after - before)
    raise AssertionError(f"no look at or after step {step}")


class Worth(NamedTuple):
    """The mean of gold labels over prompts, and its standard error."""

    mean: float
    error: float


def fresh(run: Path, policy: str) -> Worth:
    """What gold says of samples that nobody has seen."""
    means = [fmean(row["scores"]) for row in rows(run / f"judged-{policy}" / "data" / "groups.jsonl")]
    return Worth(fmean(means), stdev(means) / len(means) ** 0.5)


# The table


def say(run: Path, courses: Mapping[str, Any]) -> None:
    """Print the tables, and write them and the picture where TRUING_TABLE says."""
    rules = [line for name in LEARNED for line in (f"`{name}`", "", *told_stops(list(stops(run, courses[name]))), "")]
    text = "\n".join([*told_courses(courses), "", *rules, *told_fresh(run)]) + "\n"
    print(f"\n{where()}\n\n{text}")
    if place := os.environ.get("TRUING_TABLE", ""):
        Path(place).write_text(text, encoding="utf-8")
        truing("overoptimize", str(run), "--plot", str(Path(place).with_suffix(".svg")))


def told_courses(courses: Mapping[str, Any]) -> Iterator[str]:
    yield "| | most gold | at | gold at the end | the proxy since | α | β | peak d | |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, course in courses.items():
        law, end = course["law"], last(course)
        at = f"n = {course['best']:g}" if course["way"] == "best" else f"step {course['best']:g}"
        cells = [
            f"`{name}`",
            figure(course["gain"]),
            at,
            figure(end["gold"]),
            figure(course["proxy_gain"]),
            figure(law["alpha"]),
            figure(law["beta"]),
            figure(law["peak"]),
            law["verdict"],
        ]
        yield f"| {' | '.join(cells)} |"


def told_stops(found: Sequence[Stopped]) -> Iterator[str]:
    yield "| rule | ends after | the policy of | gold | proxy | KL |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for it in found:
        yield f"| {it.rule} | step {it.end} | step {it.step} | {it.gold:+.3f} | {it.proxy:+.2f} | {it.kl:.1f} |"


def told_fresh(run: Path) -> Iterator[str]:
    best, last = (of_phase(run, "rl-stopped", kind)[-1] for kind in (BestKept, StepDone))
    yield f"rl-stopped: gold {best.value:+.3f} at step {best.step} of {last.step}"
    yield ""
    yield "| policy | gold of fresh samples |"
    yield "| --- | --- |"
    for policy in JUDGED:
        worth = fresh(run, policy)
        yield f"| `{policy}` | {worth.mean:+.3f} ± {worth.error:.3f} |"
