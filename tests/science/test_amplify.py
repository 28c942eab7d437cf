"""Iterated amplification of powers of permutations (arXiv:1810.08575), by the recipe's phases.

An overseer who knows one application of each of four permutations of eight points answers up to p^3, then up to p^7,
with the help of a model of 0.2 million fresh weights that learns its answers in between. No phase is shown the truth
above p^1. Measured on all 128 questions p^4 to p^7, of which one in eight is guessed right: the last model alone; the
overseer with the help of the first model, which has learned p^1 and stays what it was; and, where the overseer confuses
two points of each permutation, how often the last model says what comes of that confusion, and how often the truth.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.science.children import ran, rows, where

from truing_evaluate.intervals import mean_of
from truing_oversight.powers import permutation
from truing_texts.quoting import words

POINTS = 8
RECIPE = Path(__file__).parents[2] / "recipes" / "tiny" / "amplify.toml"


def recipe(seed: int, confused: int) -> str:
    """The tiny recipe on four permutations, with a seed and an overseer of this kind."""
    text = RECIPE.read_text(encoding="utf-8").replace("permutations = 2", "permutations = 4")
    overseer = f'use = "power-overseer"\nconfused = {confused}'
    text = text.replace('use = "power-overseer"', overseer).replace("\nseed = 0", f"\nseed = {seed}")
    assert tomllib.loads(text)["seed"] == seed
    return text


def end(asked: str, confused: int = 0) -> str:
    """Where a point ends, of permutations as an overseer holds them."""
    power, point = asked.rstrip(")").split("(")
    letter, exponent = power.split("^")
    images = permutation(0, letter, POINTS, confused)
    for _ in range(int(exponent)):
        point = images[point]
    return point


def agreeing(folder: Path, phase: str, confused: int = 0) -> np.ndarray[Any, Any]:
    """Of each question whether its answer is what comes of permutations held in this way."""
    every = rows(folder / phase / "data" / "groups.jsonl")
    said = [(row["prompt"][0]["content"], words(row["completions"][0]).strip()) for row in every]
    return np.array([float(text == end(asked, confused)) for asked, text in said])


@pytest.mark.parametrize("seed", [0, 1])
def test_rounds_of_amplification_solve_what_a_frozen_assistant_does_not(tmp_path: Path, seed: int) -> None:
    torch.set_num_threads(1)
    folder = ran(recipe(seed, confused=0), tmp_path)
    learned, frozen = agreeing(folder, "answers"), agreeing(folder, "frozen")
    print(
        f"\n{where()}\n  seed {seed}: {mean_of(learned)} of {len(learned)}, frozen {mean_of(frozen)} of {len(frozen)}"
    )
    assert len(learned) == 128
    assert learned.mean() > 0.95
    assert frozen.mean() < 0.25


def test_a_systematic_error_of_the_overseer_is_learned_as_it_is(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder = ran(recipe(2, confused=1), tmp_path)
    inherited, true = agreeing(folder, "answers", confused=1), agreeing(folder, "answers")
    print(f"\n  as the overseer errs {mean_of(inherited)}, true {mean_of(true)}")
    assert inherited.mean() > 0.95
    assert true.mean() < 0.6
