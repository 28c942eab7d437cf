"""Losses on the steps of solutions.

STEP_SCORES [step] are log-odds that a step is right, STEP_LOGITS [step, 3] logits of its being wrong, neutral, right;
STEP_LABELS [step] are probabilities that it is right. STEP_SEQ [step] says which completion a step belongs to, in
rising order, and GROUP [seq] how many completions there are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from truing.errors import Problem, UserError
from truing.fields import GROUP, STEP_LABELS, STEP_LOGITS, STEP_SCORES, STEP_SEQ, Batch
from truing.stage import LossValue, Term


def process_bce(batch: Batch) -> LossValue:
    """-y log sigmoid(s) - (1 - y) log sigmoid(-s), mean over steps, with s the log-odds of a step and y its label

    The process reward model of arXiv:2211.14275, arXiv:2305.20050 and, with labels of rollouts, arXiv:2312.08935.
    """
    scores = batch[STEP_SCORES]
    labels = batch[STEP_LABELS].to(scores)
    total = binary_cross_entropy_with_logits(scores, labels, reduction="sum")
    metrics = {**_of_steps(scores, labels), **_of_solutions(batch, scores)}
    return LossValue({"process-bce": Term(total, "step")}, metrics)


def process_ce(batch: Batch) -> LossValue:
    """-log softmax(z)_c, mean over steps, with z the three logits of a step and c the class of its label: wrong 0,
    neutral 0.5, right 1

    The process reward model of arXiv:2305.20050, which has the classes positive, negative and neutral. Raises UserError
    for a label that is none of the three.
    """
    logits, labels = batch[STEP_LOGITS], batch[STEP_LABELS]
    classes = (2 * labels).round().long()
    if odd := labels[classes != 2 * labels].tolist():
        mend = 'labels of people have these with neutral = "half"; shares of rollouts are learned by "process-bce"'
        raise UserError(Problem("process-ce", f"a step has the label {odd[0]:g}, not 0, 0.5 or 1", mend))
    total = cross_entropy(logits, classes, reduction="sum")
    # As in the paper, a neutral step counts as right.
    scores = logits[:, 1:].logsumexp(1) - logits[:, 0]
    same = (logits.argmax(1) == classes).to(logits).sum()
    metrics = {**_of_steps(scores, labels.to(scores)), **_of_solutions(batch, scores)}
    return LossValue({"process-ce": Term(total, "step")}, {**metrics, "accuracy/class": Term(same, "step")})


def _of_steps(scores: Tensor, labels: Tensor) -> dict[str, Term]:
    """Shares of steps that are judged as their labels do; a score of 0 is half right."""
    good = labels >= 0.5
    hit = torch.where(good, scores > 0, scores < 0).to(scores) + 0.5 * (scores == 0)
    return {
        "accuracy": Term(hit.sum(), "step"),
        **_share("accuracy/right", hit, good, "step"),
        **_share("accuracy/wrong", hit, ~good, "step"),
        "label": Term(labels.sum(), "step"),
    }


def _of_solutions(batch: Batch, scores: Tensor) -> dict[str, Term]:
    """Shares of solutions whose first wrong step is found, or that have none and are said to have none.

    Both halves, of solutions with a wrong step and of those without, are what ProcessBench (arXiv:2412.06559) makes an
    F1 of. Counted among the judged steps.
    """
    seq, count = batch[STEP_SEQ], len(batch[GROUP])
    wrong, said = (_first(it, seq, count) for it in (batch[STEP_LABELS] < 0.5, scores < 0))
    has_steps = _first(torch.ones_like(seq, dtype=torch.bool), seq, count) < len(seq)
    erroneous = has_steps & (wrong < len(seq))
    hit = (wrong == said).to(scores)
    return {
        **_share("first_error", hit, has_steps, "seq"),
        **_share("first_error/erroneous", hit, erroneous, "seq"),
        **_share("first_error/correct", hit, has_steps & ~erroneous, "seq"),
    }


def _first(which: Tensor, seq: Tensor, count: int) -> Tensor:
    """The place of the first step of each completion [seq] that is one of `which` [step]; the number of steps if none
    is."""
    places = torch.arange(len(seq), device=seq.device).where(which, len(seq))
    return seq.new_full((count,), len(seq)).scatter_reduce(0, seq, places, "amin")


def _share(name: str, hit: Tensor, among: Tensor, per: Literal["step", "seq"]) -> dict[str, Term]:
    """The share of `hit` among some entries: how many there are is known for the whole step alone."""
    among = among.to(hit)
    return {f"{name}|of": Term((hit * among).sum(), per), f"{name}|among": Term(among.sum(), per)}
