"""What a look at the holdout says of each group of people, where the source names them (STRATUM [pair])."""

from __future__ import annotations

import torch

from truing.fields import CHOSEN, REJECTED, SCORES, SOFT, STRATUM, Batch
from truing.stage import Loss
from truing_model.step import StepSums, counts_of
from truing_tensor.comparisons import half_right
from truing_tensor.groups import by_stratum

_TOLD = ("accuracy", "nll")
_BINS = 10


def of_groups(loss: Loss, batch: Batch, outputs: Batch) -> dict[str, float]:
    """`accuracy/NAME` and `nll/NAME` of each group as far as the loss reports them, the least accuracy as
    `worst/accuracy`, and `calibration/NAME` where there are scores; nothing where pairs are not of several groups."""
    if STRATUM not in batch or len(set(batch[STRATUM])) < 2:
        return {}
    found: dict[str, float] = {}
    for name, part in by_stratum(batch.put_all(dict(outputs.items()))).items():
        sums = StepSums(counts_of(part))
        sums.look(loss, part, part.only(frozenset(outputs)))
        told = sums.report()
        found |= {f"{what}/{name}": told[what] for what in _TOLD if what in told}
        if SCORES in outputs:
            found[f"calibration/{name}"] = calibration_error(part)
    accuracies = [value for name, value in found.items() if name.startswith("accuracy/")]
    return {**found, **({"worst/accuracy": min(accuracies)} if accuracies else {})}


def calibration_error(batch: Batch) -> float:
    """The expected calibration error of sigmoid(d), d the difference of a pair's SCORES, over ten bins of confidence
    from a half to one (arXiv:1706.04599, eq. 3). Where a pair has votes, SOFT, their share is what is right."""
    margin = batch[SCORES][batch[CHOSEN]].float() - batch[SCORES][batch[REJECTED]].float()
    said = batch[SOFT].to(margin) if SOFT in batch else torch.ones_like(margin)
    right = torch.where(margin < 0, 1 - said, said).where(margin != 0, half_right(margin))
    sure = margin.abs().sigmoid()
    bins = ((sure - 0.5) * 2 * _BINS).long().clamp(max=_BINS - 1)
    gaps = torch.zeros(_BINS).index_add(0, bins.cpu(), (right - sure).cpu())
    return float(gaps.abs().sum() / len(sure))
