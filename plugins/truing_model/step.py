"""From a loss to a gradient: every term over its own count of the whole step, and every term's share seen.

The loss is evaluated on copies of the forward pass's outputs, so each term's gradient with respect to them costs next
to nothing. Their sum goes back through the network once. The share of a term is the norm of its own gradient at the
outputs: a configured term that does nothing shows as 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from truing.fields import GROUP, SEQ, Batch, Field
from truing.stage import Loss, LossValue, Term
from truing_model.layout import Pieces
from truing_tensor.comparisons import ROUNDING
from truing_tensor.groups import count

Counts = Mapping[str, int]
_ROUNDING = 1e-12


def counts_of(batch: Batch) -> Counts:
    """How many tokens, completions, pairs, groups and reasoning steps a step has: the denominators of its terms."""
    return {dim: count(batch, dim) for dim in ("token", "seq", "pair", "group", "step")}


@dataclass
class StepSums:
    """What the micro-batches of one step add up to."""

    counts: Counts
    terms: dict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))
    metrics: dict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))
    shares: dict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))

    def gradient(self, loss: Loss, batch: Batch, outputs: Batch) -> dict[Field[Tensor], Tensor]:
        """The gradient of the step's loss with respect to each output, and add this micro-batch to the sums."""
        # The rest of the batch is in the machine's own memory, and so little is asked of it that it stays there.
        leaves = {key: value.detach().float().cpu().requires_grad_() for key, value in outputs.items()}
        value = loss(batch.put_all(leaves))
        self._add(value)
        totals = {key: torch.zeros_like(leaf) for key, leaf in leaves.items()}
        for name, term in value.terms.items():
            if not term.total.requires_grad:
                continue
            scaled = term.weight * term.total / self.denominator(term)
            found = torch.autograd.grad(scaled, list(leaves.values()), retain_graph=True, allow_unused=True)
            for total, gradient in zip(totals.values(), found, strict=True):
                if gradient is not None:
                    total += gradient
                    self.shares[name] += float(gradient.square().sum())
        return totals

    def look(self, loss: Loss, batch: Batch, outputs: Batch) -> None:
        """Add a micro-batch to the sums without asking for gradients."""
        self._add(loss(batch.put_all({key: value.float() for key, value in outputs.items()})))

    def denominator(self, term: Term) -> float:
        """What a term is a mean over, for the whole step."""
        return max(float(self.counts[term.per]) if isinstance(term.per, str) else term.per, 1e-30)

    def report(self) -> dict[str, float]:
        """The step's loss, its terms and metrics; terms apart and with their shares only where there are several."""
        found = {"loss": sum(self.terms.values()), **with_explained(with_correlations(with_ratios(self.metrics)))}
        if len(self.terms) > 1:
            found |= {f"loss/{name}": value for name, value in self.terms.items()}
            found |= {f"gradient/{name}": self.shares[name] ** 0.5 for name in self.terms}
        return found

    def _add(self, value: LossValue) -> None:
        for name, term in value.terms.items():
            self.terms[name] += term.weight * float(term.total.detach()) / self.denominator(term)
        for name, term in value.metrics.items():
            self.metrics[name] += term.weight * float(term.total.detach()) / self.denominator(term)


def with_ratios(means: Mapping[str, float]) -> dict[str, float]:
    """Metrics, with the ratio NAME in place of NAME|of and NAME|among; left out where there are none among.

    How many entries of a step are of some kind is not known piece by piece, so a loss reports both, which are means.
    """
    ratios = {name.removesuffix("|among"): value for name, value in means.items() if name.endswith("|among")}
    found = {key: value for key, value in means.items() if key.rpartition("|")[0] not in ratios}
    return found | {name: means[f"{name}|of"] / among for name, among in ratios.items() if among}


def with_correlations(means: Mapping[str, float]) -> dict[str, float]:
    """Metrics, with the correlation NAME of x and y in place of its moments NAME|x, NAME|y, NAME|xx, NAME|yy, NAME|xy.

    A correlation is no mean, so a loss reports its moments, which are. It is left out where x or y is the same for all.
    """
    names = [name.removesuffix("|xy") for name in means if name.endswith("|xy")]
    found = {key: value for key, value in means.items() if key.rpartition("|")[0] not in names}
    for name in names:
        x, y, xx, yy, xy = (means[f"{name}|{moment}"] for moment in ("x", "y", "xx", "yy", "xy"))
        spread_x, spread_y = xx - x * x, yy - y * y
        # What is left of a difference of two equal numbers is no spread.
        if spread_x > max(_ROUNDING * xx, ROUNDING**2) and spread_y > max(_ROUNDING * yy, ROUNDING**2):
            found[name] = max(-1.0, min(1.0, (xy - x * y) / (spread_x * spread_y) ** 0.5))
    return found


def with_explained(means: Mapping[str, float]) -> dict[str, float]:
    """Metrics, with the share NAME of the variance of what is true that a guess explains, 1 - Var[t - g] / Var[t], in
    place of the moments of the truth t and of its error e, NAME|t, NAME|tt, NAME|e and NAME|ee.

    Left out where the truth is the same for all.
    """
    names = [name.removesuffix("|tt") for name in means if name.endswith("|tt")]
    found = {key: value for key, value in means.items() if key.rpartition("|")[0] not in names}
    for name in names:
        t, tt, e, ee = (means[f"{name}|{moment}"] for moment in ("t", "tt", "e", "ee"))
        if tt - t * t > _ROUNDING * tt:
            found[name] = 1 - (ee - e * e) / (tt - t * t)
    return found


def needs_all(loss: Loss, step: Pieces) -> bool:
    """Whether a loss must see all pieces at once: it says so, or some group is in two of them."""
    if len(step.batches) == 1:
        return False
    return getattr(loss, "whole_step", False) or (step.cut and not getattr(loss, "by_completion", False))


def parts(whole: Mapping[Field[Tensor], Tensor], at: Mapping[str, Tensor]) -> Mapping[Field[Tensor], Tensor]:
    """Of gradients of a whole step, those of a piece that lies at these places."""
    return {key: value[at[key.dims]] for key, value in whole.items()}


def reached(batch: Batch, gradients: Mapping[Field[Tensor], Tensor]) -> Tensor:
    """Which completions [seq] some gradient reaches; all of them where one runs along anything but them."""
    taught = torch.zeros(len(batch[GROUP]), dtype=torch.bool)
    for key, value in gradients.items():
        if key.dims == "token":
            taught |= torch.zeros(len(taught)).index_add(0, batch[SEQ], (value != 0).float()) > 0
        else:
            taught |= (value != 0).reshape(len(taught), -1).any(1) if key.dims == "seq" else torch.ones_like(taught)
    return taught


def surrogate(outputs: Batch, gradients: Mapping[Field[Tensor], Tensor]) -> Tensor:
    """A number whose gradient through the network is the gradient of the loss, on the device of its first output."""
    first, *others = _products(outputs, gradients)
    return torch.stack([first, *(each.to(first.device) for each in others)]).sum()


def _products(outputs: Batch, gradients: Mapping[Field[Tensor], Tensor]) -> Iterator[Tensor]:
    for key, gradient in gradients.items():
        yield (outputs[key] * gradient.to(outputs[key].device)).sum()
