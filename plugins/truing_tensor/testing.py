"""Is a loss what it says it is? Numerical checks for authors of losses, on a batch made up for the fields it needs.

def test_my_loss_does_its_arithmetic_right():
    check_loss(MyLoss(beta=0.1))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from truing.fields import (
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    LOGPROBS,
    LOGPROBS_REF,
    PROMPT_GROUP,
    PROMPTS,
    REJECTED,
    SEQ,
    SOFT,
    STEP_END,
    STEP_LABELS,
    STEP_SEQ,
    Batch,
    Field,
    Fields,
)
from truing.stage import Loss, LossSpec, LossValue, Term
from truing_tensor.groups import count, take

PERS = ("token", "seq", "pair", "group", "step")


def check_loss(spec: LossSpec, *, differences: bool = True, additive: bool = True) -> None:
    """Raise AssertionError, in words, unless the terms are finite sums, the gradient reaches LOGPROBS and is that of
    the terms, and a batch cut along its groups has the same totals.

    differences: False for a loss that stops gradients on purpose. additive: False for one that compares groups.
    """
    batch = made_up(spec.requires())
    loss = spec.build(_nowhere())
    value = loss(batch)
    who = f'loss "{spec.name}"'
    assert value.terms, f"{who} has no terms: LossValue({{...: Term(total, per)}})"
    for name, term in {**value.terms, **value.metrics}.items():
        assert term.total.numel() == 1, (
            f'{who}: "{name}" is a sum, one number, not a tensor of shape {tuple(term.total.shape)}'
        )
        assert bool(torch.isfinite(term.total)), f'{who}: "{name}" is {term.total.item()} on a plain batch'
        known = term.per in PERS if isinstance(term.per, str) else term.per > 0
        assert known, (
            f'{who}: "{name}" is a mean over {term.per!r}; it can be over {", ".join(PERS)} or a number above 0'
        )
    if LOGPROBS in spec.requires():
        _check_gradient(loss, batch, who, differences)
    if additive:
        _check_cut(loss, batch, value, who)


def made_up(needs: Fields, seed: int = 0) -> Batch:
    """A batch in float64 with these fields and what they lie in: three groups of two completions, a pair in each.

    Fields not known here are filled by their dims and dtype: normal numbers, 0 or 1, or words.
    """
    random = torch.Generator().manual_seed(seed)
    lengths, prompts = torch.tensor([3, 2, 4, 1, 2, 3]), torch.tensor([2, 1, 3])
    batch = Batch(
        {
            IDS: ["a", "b", "c"],
            PROMPTS: ["one", "two", "three"],
            COMPLETIONS: [f"answer {number}" for number in range(6)],
            GROUP: torch.tensor([0, 0, 1, 1, 2, 2]),
            CHOSEN: torch.tensor([0, 3, 4]),
            REJECTED: torch.tensor([1, 2, 5]),
            SEQ: torch.repeat_interleave(torch.arange(6), lengths),
            PROMPT_GROUP: torch.repeat_interleave(torch.arange(3), prompts),
            STEP_SEQ: torch.arange(6),
            STEP_END: lengths.cumsum(0) - 1,
        }
    )
    for need in sorted(needs - batch.keys(), key=lambda field: field.name):
        batch = batch.put(need, _values(need, count(batch, need.dims) if need.dims else 1, random))
    return batch


def _values(field: Field[Any], size: int, random: torch.Generator) -> Any:
    normal = torch.randn(size, generator=random, dtype=torch.float64)
    if field in (LOGPROBS, LOGPROBS_REF) or field.name.startswith("logprobs"):
        return -normal.abs() - 0.1
    if field in (SOFT, STEP_LABELS):
        return torch.sigmoid(normal)
    if field.dtype.startswith("float"):
        return normal
    if field.dtype:
        return (normal > 0).to(getattr(torch, field.dtype))
    return [f"{field.name} {number}" for number in range(size)]


def _check_gradient(loss: Loss, batch: Batch, who: str, differences: bool) -> None:
    def whole(logprobs: Tensor) -> Tensor:
        terms = loss(batch.put(LOGPROBS, logprobs)).terms
        return torch.stack([term.weight * term.total.reshape(()) for term in terms.values()]).sum()

    logprobs = batch[LOGPROBS].clone().requires_grad_()
    total = whole(logprobs)
    assert total.requires_grad, f"{who}: no gradient reaches `logprobs`; is it detached, or made of Python numbers?"
    (gradient,) = torch.autograd.grad(total, logprobs, allow_unused=True)
    assert gradient is not None, f"{who}: its gradient does not pass through `logprobs`"
    assert bool(torch.isfinite(gradient).all()), f"{who}: its gradient is not finite: {gradient.tolist()}"
    assert bool(gradient.any()), f"{who}: its gradient is 0 everywhere; it teaches nothing on a plain batch"
    if differences:
        told = _differences(whole, batch[LOGPROBS])
        close = torch.allclose(gradient, told, rtol=1e-4, atol=1e-6)
        assert close, f"{who}: its gradient is {gradient.tolist()}, and by finite differences {told.tolist()}"


def _differences(of: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    """The gradient of a function by central differences. at [token]"""
    found = torch.empty_like(at)
    for place in range(len(at)):
        push = torch.zeros_like(at)
        push[place] = step
        found[place] = (of(at + push) - of(at - push)).detach() / (2 * step)
    return found


def _check_cut(loss: Loss, batch: Batch, value: LossValue, who: str) -> None:
    pieces = [loss(take(batch, groups)) for groups in ([0], [1, 2])]
    for part in ("terms", "metrics"):
        whole: Mapping[str, Term] = getattr(value, part)
        for name, term in whole.items():
            together = torch.stack([getattr(piece, part)[name].total for piece in pieces]).sum()
            said = (
                f'{who}: "{name}" is {term.total.item():.6g} on a batch, {together.item():.6g} on its pieces together'
            )
            mend = "return a sum, and let `per` say what it is a mean over"
            assert torch.allclose(together, term.total), f"{said}; {mend}"


def _nowhere() -> Any:
    """A loss is built from its options alone, so there is no run to hand it."""
    return None
