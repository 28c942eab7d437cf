"""What the numbers of a reward model are worth: measured on the holdout it was trained beside, and kept with it.

A comparison fixes neither where the scores of a model begin nor how far they spread, so those of two models cannot be
set beside each other until both are brought to one scale: to standard deviations, or to log-odds. Measured on the
holdout, because what a model has learned from it tells apart more surely than it should. A file of JSON beside the
weights, so that whoever has the model has it, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor

from truing.errors import Problem, UserError
from truing.fields import CHOSEN, GROUP, RANK, REJECTED, SOFT, Batch

FILE = "reward_scale.json"
_STEEPEST = 1e6
_HALVINGS = 200


class Scale(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scores of each member of a model on a holdout. temperature: None where they say less than nothing of which
    completion is better, or where there were no comparisons."""

    mean: list[float]
    std: list[float]
    temperature: list[float | None]
    completions: int
    pairs: int

    def applied(self, scores: Tensor, how: Literal["normalised", "calibrated"]) -> Tensor:
        """Scores [seq, member] in standard deviations from the mean, or in log-odds, which takes a temperature."""
        exact = scores.double()
        if how == "normalised":
            exact = (exact - exact.new_tensor(self.mean)) / exact.new_tensor(self.std)
        else:
            exact = exact / exact.new_tensor(self.temperature)
        return exact.to(scores.dtype)


def measured(batch: Batch, scores: Tensor) -> Scale | None:
    """The scale of scores [seq, member] of a holdout; None where some member gives all completions the same."""
    exact = scores.double()
    if len(exact) < 2 or bool((exact.amax(0) == exact.amin(0)).any()):
        return None
    better, worse, aim = comparisons(batch)
    differences = exact[better] - exact[worse]
    return Scale(
        mean=exact.mean(0).tolist(),
        std=exact.std(0, correction=0).tolist(),
        temperature=[temperature(difference, aim) for difference in differences.unbind(1)],
        completions=len(exact),
        pairs=len(better),
    )


def comparisons(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The better and the worse completion of each comparison [pair], and the probability that it is so.

    Those of pairs, else all two of a ranking that are not tied.
    """
    if CHOSEN in batch:
        aim = batch[SOFT].double() if SOFT in batch else torch.ones(len(batch[CHOSEN]), dtype=torch.float64)
        return batch[CHOSEN], batch[REJECTED], aim
    if RANK not in batch:
        nothing = torch.zeros(0, dtype=torch.int64)
        return nothing, nothing, nothing.double()
    group, rank = batch[GROUP], batch[RANK]
    better, worse = torch.nonzero((group[:, None] == group) & (rank[:, None] < rank), as_tuple=True)
    return better, worse, torch.ones(len(better), dtype=torch.float64)


def temperature(difference: Tensor, aim: Tensor) -> float | None:
    """The T under which sigmoid(difference / T) is likeliest, arXiv:1706.04599, section 4.2; both are [pair].

    aim: the probability that the first is better, drawn towards a half as Platt (1999) does it, (n q + 1) / (n + 2): so
    there is a T, too, where every pair is right. None where there is none above 0: the scores order pairs no better
    than chance.
    """
    count = len(difference)
    aim = (count * aim + 1) / (count + 2)

    def slope(steepness: float) -> float:
        return float((difference * (torch.sigmoid(steepness * difference) - aim)).sum())

    if not count or slope(0.0) >= 0:
        return None
    # The likelihood is concave in 1 / T, so its slope crosses 0 once.
    low, high = 0.0, 1.0
    while slope(high) < 0 and high < _STEEPEST:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def write(folder: Path, scale: Scale) -> None:
    """Put a scale beside the weights."""
    (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(scale)) + b"\n")


def read(folder: Path, members: int) -> Scale | None:
    """The scale beside the weights of a model; None if it has none. Raises UserError for one that is not its own."""
    file = folder / FILE
    if not file.exists():
        return None
    try:
        scale = msgspec.json.decode(file.read_bytes(), type=Scale)
    except msgspec.MsgspecError as error:
        raise UserError(Problem(str(file), f"no scale of a reward model: {error}", "train it again")) from None
    if {len(scale.mean), len(scale.std), len(scale.temperature)} != {members} or min(scale.std) <= 0:
        what = f"it is of {len(scale.mean)} members, and the model has {members}"
        raise UserError(Problem(str(file), what, "keep the file of the model beside the model"))
    return scale
