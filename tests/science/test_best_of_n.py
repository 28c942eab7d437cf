"""Overoptimization as in Gao et al. (arXiv:2210.10760), and ensembles as in Coste et al. (arXiv:2310.02743).

A small policy, a gold reward model, proxies that learn of it, and the best of n by them. Claims are about means over
proxies, and over ensembles: `overoptimized` says which. Some five minutes of one CPU core.
TRUING_SEED is the recipe's seed, 0 if not given; TRUING_RUN names a run that was made before, of which all is said
again. Tables are printed, and written to the file that TRUING_TABLE names, with a picture beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.science.children import figure, ran, told, truing, where
from tests.science.overoptimized import recipe
from tests.science.stopped_best import PROBED, Array, Samples, Stopped, ensembles, outcomes, samples

FEW, MANY, MEMBER = "few*", "many*", "member-*"
TOGETHER = [part for pattern in (FEW, MANY, MEMBER) for part in ("--together", pattern)]
PENALTY = 0.5
"""What arXiv:2310.02743 takes for the best of n."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run."""
    made = os.environ.get("TRUING_RUN", "")
    seed = int(os.environ.get("TRUING_SEED", "0"))
    return Path(made) if made else ran(recipe(seed), tmp_path_factory.mktemp("overoptimization"))


@pytest.fixture(scope="module")
def sampled(run: Path) -> Samples:
    """What all proxies, members and gold say of the same samples."""
    return samples(run)


@pytest.fixture(scope="module")
def courses(run: Path) -> Mapping[str, Any]:
    """What `truing overoptimize` says of the means, and how they differ from that of few comparisons."""
    said = told("overoptimize", str(run), *TOGETHER, "--against", FEW)["courses"]
    return {course["name"]: course for course in said}


def test_gold_rises_peaks_and_falls_while_the_proxy_rises(courses: Mapping[str, Any]) -> None:
    course = courses[FEW]
    assert course["gain"]["low"] > 0
    assert course["fall"]["low"] > 0
    assert course["proxy_gain"]["low"] > 0
    assert course["law"]["beta"]["low"] > 0


def test_more_comparisons_move_the_peak_to_the_right_and_up(courses: Mapping[str, Any]) -> None:
    apart = courses[MANY]["apart"]
    assert apart["peak"]["low"] > 0
    assert apart["gain"]["low"] > 0
    assert apart["gold"]["low"] > 0


def test_the_worst_case_of_all_members_is_what_the_least_of_them_says(sampled: Samples) -> None:
    """So ensembles of some of them can be made of what each said."""
    members = [scores for name, scores in sampled.scores.items() if name.startswith("member-")]
    assert np.min(members, 0) == pytest.approx(sampled.scores["wco"], abs=1e-6)


@pytest.mark.parametrize("ensemble", ["wco", "uwo"])
def test_the_best_of_most_by_an_ensemble_is_worth_more_than_by_one_of_its_members(
    ensemble: str, sampled: Samples
) -> None:
    worth = ensembles(sampled, PENALTY)
    low, _ = interval(worth[ensemble] - worth["one"])
    assert low > 0


def test_a_stop_that_asks_gold_now_and_then_and_goes_back_ends_within_a_tenth_of_the_most_gold(
    run: Path, sampled: Samples, courses: Mapping[str, Any]
) -> None:
    """What other rules come to is in the table."""
    stops = {size: outcomes(sampled, size) for size in ("few", "many")}
    say(run, courses, sampled, stops)
    for found in stops.values():
        assert found[PROBED].gold >= 0.9 * found[PROBED].most
        assert found[PROBED].end < found["none"].end
    assert stops["few"][PROBED].gold > stops["few"]["none"].gold


def interval(values: Array) -> tuple[float, float]:
    """In which the mean over prompts lies: percentiles of a bootstrap over them."""
    chosen = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(values[chosen].mean(1), [0.025, 0.975])
    return float(low), float(high)


# The tables


def say(run: Path, courses: Mapping[str, Any], sampled: Samples, stops: Mapping[str, Mapping[str, Stopped]]) -> None:
    """Print the tables, and write them and the picture where TRUING_TABLE says."""
    parts = [
        told_courses(courses),
        told_ensembles(ensembles(sampled, PENALTY)),
        *(told_stops(*it) for it in stops.items()),
    ]
    text = "\n\n".join("\n".join(lines) for lines in parts) + "\n"
    print(f"\n{where()}\n\n{text}")
    if place := os.environ.get("TRUING_TABLE", ""):
        Path(place).write_text(text, encoding="utf-8")
        drawn = [part for pattern in (FEW, MANY) for part in ("--together", pattern)]
        drawn += [part for name in sampled.scores if name.startswith(("few", "many")) for part in ("--proxy", name)]
        truing("overoptimize", str(run), *drawn, "--plot", str(Path(place).with_suffix(".png")))


def told_courses(courses: Mapping[str, Any]) -> Iterator[str]:
    yield "| | of | most gold | at | lost since | gold at the end | the proxy since | peak of the law, d |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name in (FEW, MANY, MEMBER):
        course = courses[name]
        end = course["points"][-1]["gold"]
        cells = [f"`{name}`", str(len(course["members"])), figure(course["gain"]), f"n = {course['best']:g}"]
        cells += map(figure, (course["fall"], end, course["proxy_gain"], course["law"]["peak"]))
        yield f"| {' | '.join(cells)} |"
    less = {key: figure(it) for key, it in courses[MANY]["apart"].items() if key != "name"}
    yield f"| `{MANY}` less `{FEW}` | | {less['gain']} | d {less['place']} | | {less['gold']} | | {less['peak']} |"


def told_ensembles(worth: Mapping[str, Array]) -> Iterator[str]:
    yield "| the best of all samples by | gold | less that of one |"
    yield "| --- | --- | --- |"
    for name, gold in worth.items():
        low, high = interval(gold - worth["one"])
        apart = "" if name == "one" else f"{(gold - worth['one']).mean():+.2f} [{low:.2f}, {high:.2f}]"
        yield f"| {name} | {gold.mean():+.2f} | {apart} |"


def told_stops(size: str, found: Mapping[str, Stopped]) -> Iterator[str]:
    yield f"| `{size}*` | ends after n | keeps n | gold | of the most | proxy | gold labels |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for rule, it in found.items():
        share = f"{it.gold:+.2f} | {it.gold / it.most:.0%} of {it.most:+.2f}"
        yield f"| {rule} | {it.end:.0f} | {it.n:.0f} | {share} | {it.proxy:+.2f} | {it.labels:.0f} |"
