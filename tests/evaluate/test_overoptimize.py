"""Overoptimization: the laws, the divergence of best of n, curves of samples and of a policy that learns."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from truing_evaluate.bestof import kl_bound
from truing_evaluate.curves import averaged, best_curve, distances, kl_of_best, learned_curve, redrawn
from truing_evaluate.intervals import Array
from truing_evaluate.laws import Way, fitted, interval, law, verdict
from truing_evaluate.shapes import Figure

from .conftest import Call, Write

D = np.array([0.0, 0.44, 0.8, 1.1, 1.36, 1.58, 1.78])


# The laws


@pytest.mark.parametrize(
    ("way", "alpha", "beta", "peak", "top"),
    [
        # alpha / (2 beta) and alpha^2 / (4 beta); exp(alpha / beta - 1) and beta times that.
        ("best", 0.8, 0.4, 1.0, 0.4),
        ("learned", 0.6, 0.3, math.e, 0.3 * math.e),
        ("learned", 0.3, 0.3, 1.0, 0.3),
    ],
)
def test_a_fit_finds_the_law_that_points_were_made_by_and_its_peak(
    way: Way, alpha: float, beta: float, peak: float, top: float
) -> None:
    gold = law(D, alpha, beta, way)
    found = [float(it[0]) for it in fitted(D[None], gold[None], way)]
    assert found == pytest.approx([alpha, beta, peak, top], rel=1e-9)
    # The peak is one: a little to either side gold is less.
    near = law(np.array([peak - 0.01, peak, peak + 0.01]), alpha, beta, way)
    assert near[1] == pytest.approx(top)
    assert near[1] > max(near[0], near[2])


def test_the_two_laws_are_those_of_the_paper_and_not_each_other() -> None:
    assert law(np.array([2.0]), 1.0, 0.25, "best")[0] == pytest.approx(2 * (1 - 0.25 * 2))
    assert law(np.array([2.0]), 1.0, 0.25, "learned")[0] == pytest.approx(2 * (1 - 0.25 * math.log(2)))
    assert law(np.array([0.0]), 1.0, 0.25, "learned")[0] == 0.0


@pytest.mark.parametrize("way", ["best", "learned"])
def test_a_fit_is_the_least_squares_solution_and_leaves_out_what_is_no_number(way: Way) -> None:
    chance = np.random.default_rng(0)
    d = np.sort(chance.uniform(0.1, 2, size=(5, 7)), 1)
    gold = chance.normal(size=(5, 7))
    gold[2, 3] = np.nan
    found = fitted(d, gold, way)
    for at in range(5):
        known = np.isfinite(gold[at])
        x = d[at][known]
        columns = np.stack([x, -(x**2) if way == "best" else -x * np.log(x)], 1)
        alpha, beta = np.linalg.lstsq(columns, gold[at][known], rcond=None)[0]
        assert (found.alpha[at], found.beta[at]) == pytest.approx((alpha, beta))


def test_gold_that_only_rises_has_no_peak_and_gold_that_only_falls_has_it_at_the_start() -> None:
    rises = fitted(D[None], (D**2)[None], "best")
    assert (rises.beta[0], rises.peak[0], rises.top[0]) == pytest.approx((-1, math.inf, math.inf))
    falls = fitted(D[None], (-D - D**2)[None], "best")
    assert (falls.alpha[0], falls.peak[0], falls.top[0]) == pytest.approx((-1, 0, 0))
    one = fitted(np.array([[0.0, 1.0]]), np.array([[0.0, 1.0]]), "best")
    assert np.isnan([one.alpha[0], one.peak[0]]).all()


def figure(low: float, high: float) -> Figure:
    return Figure(value=(low + high) / 2 if math.isfinite(high) else high, low=low, high=high)


def test_a_peak_is_inside_the_data_only_if_all_of_its_interval_is_and_gold_is_seen_to_fall() -> None:
    beta, falls = figure(0.1, 0.2), figure(0.1, 0.3)
    assert verdict(beta, figure(0.5, 0.9), 1.0, falls) == "inside the data"
    assert verdict(beta, figure(0.5, 0.9), 1.0, figure(-0.1, 0.3)).endswith("gold is not seen to fall")
    assert verdict(beta, figure(0.5, 1.1), 1.0, falls).startswith("not sure")
    assert verdict(beta, figure(1.1, 1.9), 1.0, falls).startswith("beyond")
    assert verdict(figure(-0.1, 0.2), figure(0.5, math.inf), 1.0, falls).startswith("not identified")


def test_an_interval_may_end_in_infinity_and_leaves_out_what_is_not_known() -> None:
    drawn = np.array([1.0] * 90 + [math.inf] * 10 + [math.nan] * 5)
    assert interval(1.0, drawn) == Figure(value=1.0, low=1.0, high=math.inf)


# How far the best of n is


def test_without_ties_the_divergence_is_the_bound() -> None:
    for n in (1, 2, 7, 64):
        assert kl_of_best(np.arange(100.0), n) == pytest.approx(kl_bound(n), abs=1e-12)


def test_with_ties_it_is_that_of_the_outcomes() -> None:
    # Two outcomes, equally likely: the best of 64 is nearly always the better one, log 2 away and not 3.17.
    assert kl_of_best(np.array([0.0, 0.0, 1.0, 1.0]), 64) == pytest.approx(0.6931, abs=1e-4)
    assert kl_bound(64) == pytest.approx(3.1745, abs=1e-4)
    many = np.repeat(np.arange(1000.0), 2)
    assert kl_of_best(many, 64) == pytest.approx(3.1743, abs=1e-4)
    # Shares of 1/2, 1/3 and 1/6, the best of 3 by enumeration of all triples.
    shares = np.array([3, 2, 1]) / 6
    best = np.zeros(3)
    for triple in itertools.product(range(3), repeat=3):
        best[max(triple)] += np.prod(shares[list(triple)])
    exact = float((best * np.log(best / shares)).sum())
    scores = np.array([0.0] * 6 + [1.0] * 4 + [2.0] * 2)
    assert kl_of_best(scores, 3) == pytest.approx(exact)


# Curves


def made(prompts: int = 12, samples: int = 32, seed: int = 0) -> tuple[list[Array], list[Array]]:
    """Gold, and a proxy that goes with it but for a tail, which the proxy loves and gold does not."""
    chance = np.random.default_rng(seed)
    gold, proxy = [], []
    for _ in range(prompts):
        good = chance.normal(size=samples)
        odd = chance.random(samples) < 0.1
        gold.append(np.where(odd, -3.0, good))
        proxy.append(np.where(odd, 3 + chance.random(samples), good))
    return gold, proxy


def test_a_curve_of_best_of_n_is_what_enumeration_gives_counted_from_the_mean() -> None:
    gold, proxy = [np.array([1.0, 5.0, 2.0])], [np.array([0.3, 0.1, 0.2])]
    curve = best_curve("p", gold, proxy)
    assert curve.at.tolist() == [1, 2, 3]
    # Pairs: {0,1} -> 0, {0,2} -> 0, {1,2} -> 2.
    assert curve.gold[0].tolist() == pytest.approx([8 / 3, 4 / 3, 1])
    drawn = redrawn(curve)
    assert drawn.gold[0].tolist() == pytest.approx([0, -4 / 3, -5 / 3])
    assert distances(curve, drawn)[0].tolist() == pytest.approx([math.sqrt(kl_bound(n)) for n in (1, 2, 3)])


def test_a_curve_of_learning_counts_gold_from_its_first_version_and_prompts_as_they_were_asked() -> None:
    one, two = np.array([1.0, 3.0]), np.array([4.0])
    asked = [
        ("a", 0, one, one * 10, np.zeros(2)),
        ("b", 0, two, two * 10, np.zeros(1)),
        ("c", 5, one + 1, one, np.array([0.5, 1.5])),
    ]
    curve = learned_curve("rl", asked)
    assert curve.at.tolist() == [0, 5]
    assert curve.completions.tolist() == [3, 2]
    drawn = redrawn(curve)
    # Means over prompts: (2 + 4) / 2 at the start.
    assert drawn.gold[0].tolist() == pytest.approx([0, 0])
    assert drawn.proxy[0].tolist() == pytest.approx([30, 2])
    assert distances(curve, drawn)[0].tolist() == pytest.approx([0, 1])


def test_prompts_that_are_asked_again_and_again_count_alone() -> None:
    held = [
        (name, version, np.full(2, gold + version), np.ones(2), np.ones(2))
        for version in (0, 4)
        for name, gold in (("a", 1.0), ("b", 5.0))
    ]
    passing = [(f"t{version}", version, np.full(2, 100.0), np.ones(2), np.ones(2)) for version in range(5)]
    curve = learned_curve("rl", [*held, *passing])
    assert (len(curve.gold), curve.at.tolist()) == (2, [0, 4])
    # However much prompts differ, each gained 4: there is nothing for a bootstrap over them to doubt.
    assert redrawn(curve).gold[:, 1] == pytest.approx(np.full(1001, 4.0))


def test_many_steps_become_few_points() -> None:
    asked = [(f"{version}", version, np.ones(1), np.ones(1), np.full(1, float(version))) for version in range(100)]
    curve = learned_curve("rl", asked)
    assert len(curve.at) == 20
    assert curve.at[:2].tolist() == [2, 7]
    assert np.nanmean(curve.kl, 0)[:2].tolist() == [2, 7]


def test_a_mean_of_curves_doubts_which_of_them_were_had_and_not_only_which_prompts() -> None:
    gold = [np.array([0.0, 1.0])] * 8
    up, down = best_curve("up", gold, gold), best_curve("down", gold, [-it for it in gold])
    alone = redrawn(up)
    assert alone.gold[:, 1] == pytest.approx(np.full(1001, 0.5))
    mean = averaged([alone, redrawn(down)], np.random.default_rng(0))
    assert mean.gold[0].tolist() == pytest.approx([0, 0])
    # All prompts are alike, so what is left is a fair coin for each of two proxies: -1/2, 0 or 1/2.
    values, counts = np.unique(mean.gold[1:, 1].round(9), return_counts=True)
    assert values.tolist() == [-0.5, 0, 0.5]
    assert (counts / 1000).tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.05)


# The command


def parts(gold: Array, proxy: Array, **more: Any) -> dict[str, Any]:
    said = [{"gold": float(g), "proxy": float(p), **more} for g, p in zip(gold, proxy, strict=True)]
    return {
        "score_parts": said,
        "scores": [float(p) for p in proxy],
        "completions": [str(at) for at in range(len(gold))],
    }


def test_it_says_where_gold_peaks_and_how_far_it_falls(write: Write, truing: Call, tmp_path: Path) -> None:
    gold, proxy = made()
    write([parts(g, p) for g, p in zip(gold, proxy, strict=True)], "run/bon/data/groups.jsonl")
    # Another mix of the run, of which gold is no part.
    write([{**parts(gold[0], proxy[0]), "score_parts": [{"close": 1.0}] * 32}], "run/label/data/groups.jsonl")
    said = truing("overoptimize", tmp_path / "run", "--json").json
    (course,) = said["courses"]
    assert (course["name"], course["way"], course["prompts"]) == ("proxy", "best", 12)
    assert course["best"] in (2, 4)
    assert course["gain"]["low"] > 0
    assert course["fall"]["low"] > 0
    assert course["proxy_gain"]["low"] > 0
    assert course["law"]["verdict"] == "inside the data"
    gold_at = [point["gold"]["value"] for point in course["points"]]
    d = np.sqrt([point["bound"] for point in course["points"]])
    off = law(d, course["law"]["alpha"]["value"], course["law"]["beta"]["value"], "best") - gold_at
    assert course["law"]["misfit"] == pytest.approx(float(np.sqrt(np.mean(off**2))))
    assert [point["n"] for point in course["points"]] == [1, 2, 4, 8, 16, 32]
    assert course["points"][0]["gold"]["value"] == pytest.approx(0)
    told = truing("overoptimize", tmp_path / "run" / "bon", "--proxy", "proxy")
    assert "best of n by proxy, 12 prompts" in told.out
    assert "inside the data" in told.out


def test_what_a_mix_kept_while_a_policy_learned_is_a_course_of_its_own(
    write: Write, truing: Call, tmp_path: Path
) -> None:
    lines = []
    for version in range(0, 30, 3):
        d = version / 10
        for prompt in range(6):
            gold = law(np.array([d]), 0.6, 0.4, "learned") + prompt
            row = parts(gold, np.array([d]), kl=d**2)
            lines.append({**row, "id": str(prompt), "version": [version]})
    # A resumed phase scores again what was under way.
    write([*lines, *lines[-3:]], "run/rl/scores.jsonl")
    (course,) = truing("overoptimize", tmp_path / "run", "--json").json["courses"]
    assert (course["name"], course["way"], course["start"]) == ("rl", "learned", 2.5)
    assert {point["completions"] for point in course["points"]} == {6}
    assert course["law"]["alpha"]["value"] == pytest.approx(0.6)
    assert course["law"]["beta"]["value"] == pytest.approx(0.4)
    assert course["law"]["peak"]["value"] == pytest.approx(math.exp(0.5))
    assert "learned in rl" in truing("overoptimize", tmp_path / "run").out


def test_proxies_of_one_kind_are_told_together_and_compared_on_the_same_prompts(write: Write, truing: Call) -> None:
    gold, tailed = made()
    chance = np.random.default_rng(1)
    members = {
        name: [score + chance.normal(scale=0.1, size=len(score)) for score in scores]
        for name, scores in (("few-1", tailed), ("few-2", tailed), ("many-1", gold), ("many-2", gold))
    }
    lines = [
        {
            "score_parts": [
                {"gold": float(gold[at][i]), **{name: float(scores[at][i]) for name, scores in members.items()}}
                for i in range(len(gold[at]))
            ],
            "scores": gold[at].tolist(),
            "completions": [str(i) for i in range(len(gold[at]))],
        }
        for at in range(len(gold))
    ]
    path = write(lines)
    options = ("--together", "few-*", "--together", "many-*")
    few, many = truing("overoptimize", path, *options, "--against", "few-*", "--json").json["courses"]
    singles = truing("overoptimize", path, "--json").json["courses"]
    assert (few["name"], few["members"], few["apart"]) == ("few-*", ["few-1", "few-2"], None)
    ends = {course["name"]: course["points"][-1]["gold"]["value"] for course in singles}
    assert few["points"][-1]["gold"]["value"] == pytest.approx((ends["few-1"] + ends["few-2"]) / 2)
    apart = many["apart"]
    assert apart["name"] == "few-*"
    assert apart["gold"]["value"] == pytest.approx(
        (ends["many-1"] + ends["many-2"] - ends["few-1"] - ends["few-2"]) / 2
    )
    assert min(apart[what]["low"] for what in ("gold", "gain", "place", "peak")) > 0
    told = truing("overoptimize", path, *options, "--against", "few-*").out
    assert "best of n by many-*, mean of 2, 12 prompts" in told
    assert "less few-*: gold at the end +" in told
    assert "bootstrap over prompts and proxies" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--together", "fwe-*"], 'no course matches "fwe-*"'),
        (["--against", "proxi"], 'did you mean "proxy"?'),
        (["--gold", "golden"], 'no "golden" in "score_parts"'),
        (["--proxy", "proxi"], 'did you mean "proxy"?'),
        (["--plot", "curve.gif"], "name it .png or .svg"),
    ],
)
def test_what_is_not_there_is_told(arguments: list[str], told: str, write: Write, truing: Call) -> None:
    path = write([parts(np.array([1.0, 2.0]), np.array([2.0, 1.0]))])
    said = truing("overoptimize", path, *arguments)
    assert said.status == 2
    assert told in said.err


def test_a_run_whose_scorers_were_not_kept_apart_is_told(write: Write, truing: Call, tmp_path: Path) -> None:
    write([{"scores": [1.0, 0.0]}], "run/sample/data/groups.jsonl")
    said = truing("overoptimize", tmp_path / "run")
    assert said.status == 2
    assert 'use = "mix"' in said.err


def test_what_was_not_measured_at_the_same_points_has_no_mean(write: Write, truing: Call, tmp_path: Path) -> None:
    for name, versions in (("rl-1", (0, 2, 4)), ("rl-2", (0, 3, 4))):
        row = parts(np.array([1.0]), np.array([1.0]), kl=0.5)
        write([{**row, "id": "a", "version": [version]} for version in versions], f"run/{name}/scores.jsonl")
    said = truing("overoptimize", tmp_path / "run", "--together", "rl-*")
    assert said.status == 2
    assert "rl-2 and rl-1 were not measured at the same points" in said.err


def test_a_policy_that_learned_without_its_divergence_being_watched_is_told(write: Write, truing: Call) -> None:
    row = parts(np.array([1.0]), np.array([1.0]))
    path = write([{**row, "id": "a", "version": [version]} for version in (0, 1)])
    said = truing("overoptimize", path)
    assert said.status == 2
    assert 'no "kl" in "score_parts"' in said.err


@pytest.mark.slow
def test_the_picture_and_the_figures_go_to_a_file_and_to_mlflow(
    write: Write, truing: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install -e '.[mlflow]'")
    address = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.chdir(tmp_path)
    gold, proxy = made()
    path = write([parts(g, p) for g, p in zip(gold, proxy, strict=True)])
    said = truing("overoptimize", path, "--plot", tmp_path / "curve.svg", "--mlflow")
    assert said.status == 0, said.err
    assert (tmp_path / "curve.svg").read_text(encoding="utf-8").count("</svg>") == 1
    from mlflow.tracking import MlflowClient

    client = MlflowClient(address)
    (run,) = client.search_runs([client.get_experiment_by_name("truing").experiment_id])
    history = client.get_metric_history(run.info.run_id, "courses/proxy/points/gold/value")
    assert [point.step for point in history] == [1, 2, 4, 8, 16, 32]
    assert "courses/proxy/law/beta/low" in run.data.metrics
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["overoptimization.png"]
