"""How rewards go with length: numpy's number, whatever the loss and however a step is cut."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from truing.fields import CHOSEN, GROUP, IDS, LABEL, LOGPROBS, MISMATCHED, RANK, REJECTED, SEQ, Batch, Fields
from truing.stage import LossSpec
from truing_model.step import StepSums, counts_of, with_correlations
from truing_preference.plugin import truing_specs
from truing_preference.sides import completions
from truing_tensor.groups import take

from .conftest import built

NAME = "length/correlation"
LOSSES = [spec for spec in truing_specs() if issubclass(spec, LossSpec)]
ADDITIVE = [spec for spec in LOSSES if not spec.whole_step]
BETA_RHO = {"dpo", "ipo", "hinge-norm", "r-dpo", "dpop", "wpo", "exo", "nca", "apo", "dpo-ties", "aot", "beta-dpo"}


def a_step(needs: Fields, seed: int, groups: int = 6) -> Batch:
    """Groups of two completions of any length, each a pair, in float32 as a model gives them."""
    chance = random.Random(seed)
    lengths = torch.tensor([chance.randint(1, 40) for _ in range(2 * groups)])
    tokens = int(lengths.sum())
    generator = torch.Generator().manual_seed(seed)
    values = {
        IDS: [str(at) for at in range(groups)],
        GROUP: torch.arange(groups).repeat_interleave(2),
        SEQ: torch.arange(2 * groups).repeat_interleave(lengths),
        CHOSEN: torch.tensor([2 * at + chance.randint(0, 1) for at in range(groups)]),
        RANK: torch.tensor([0, 1] * groups),
        LABEL: torch.tensor([1, 0] * groups),
        MISMATCHED: torch.tensor([0] * (2 * groups - 2) + [1, 1]),
    }
    values[REJECTED] = values[CHOSEN] ^ 1
    for need in needs - values.keys():
        one_per_pair = torch.rand(groups, generator=generator)
        values[need] = one_per_pair if need.dims == "pair" else -3 * torch.rand(tokens, generator=generator)
    return Batch(values).only(needs | {IDS, GROUP})


def reported(spec: LossSpec, step: Batch, pieces: list[Batch]) -> dict[str, float]:
    sums = StepSums(counts_of(step))
    for piece in pieces:
        sums.look(built(spec), piece, Batch())
    return sums.report()


@pytest.mark.parametrize("spec", LOSSES, ids=lambda spec: spec.name)
def test_every_preference_loss_reports_how_its_rewards_go_with_length(spec: type[LossSpec]) -> None:
    step = a_step(spec().requires(), seed=0)
    found = reported(spec(), step, [step])
    assert -1 <= found[NAME] <= 1
    assert not any("|" in name for name in found)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spec", [s for s in LOSSES if s.name in BETA_RHO], ids=lambda spec: spec.name)
def test_the_correlation_is_numpys(spec: type[LossSpec], seed: int) -> None:
    step = a_step(spec().requires(), seed)
    side = completions(step)
    expected = np.corrcoef(side.ratio.double(), side.length.double())[0, 1]
    assert reported(spec(), step, [step])[NAME] == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 5), st.sampled_from(ADDITIVE))
@settings(deadline=None, max_examples=60)
def test_the_correlation_does_not_depend_on_how_a_step_is_cut(seed: int, at: int, spec: type[LossSpec]) -> None:
    step = a_step(spec().requires(), seed)
    order = random.Random(seed).sample(range(6), 6)
    cut = [take(step, order[:at]), take(step, order[at:])]
    assert reported(spec(), step, cut)[NAME] == pytest.approx(reported(spec(), step, [step])[NAME], abs=1e-9)


def test_rewards_that_are_all_equal_go_with_nothing() -> None:
    spec = next(spec for spec in ADDITIVE if spec.name == "dpo")
    step = a_step(spec().requires(), seed=0)
    untouched = step.put_all({field: step[LOGPROBS] for field in spec().requires() if field.name == "logprobs_ref"})
    assert NAME not in reported(spec(), step, [untouched])


def test_answers_of_one_length_go_with_nothing() -> None:
    moments = {"x": 1.0, "y": 7.0, "xx": 3.0, "yy": 49.0, "xy": 7.0}
    assert with_correlations({f"{NAME}|{moment}": value for moment, value in moments.items()}) == {}


@given(st.integers(0, 10_000), st.floats(-1e3, 1e3), st.floats(0.1, 1e3))
def test_large_and_distant_numbers_lose_no_digits_that_matter(seed: int, start: float, scale: float) -> None:
    chance = np.random.default_rng(seed)
    x = start + scale * chance.normal(size=50)
    y = chance.integers(1, 2000, size=50).astype(float)
    moments = {"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}
    found = with_correlations({f"r|{name}": float(values.mean()) for name, values in moments.items()} | {"loss": 1.0})
    assert found == pytest.approx({"loss": 1.0, "r": np.corrcoef(x, y)[0, 1]}, abs=1e-6)
