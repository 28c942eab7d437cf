"""What each item's label is and how each annotator errs, found together from their votes alone (Dawid and Skene).

    q[i, t]      probability that the true label of item i is t                                  [item, label]
    p[t]         how frequent the true label t is                                                [label]
    c[a, t, l]   probability that annotator a says l where t is true                             [annotator, true, said]

    E   q[i, t]    ~ p[t] prod over votes (a, l) on i of c[a, t, l]
    M   p[t]       ~ m + sum_i q[i, t]
        c[a, t, l] ~ prior[t, l] + sum over votes of a that say l of q[i, t]

A. P. Dawid and A. M. Skene, "Maximum likelihood estimation of observer error-rates using the EM algorithm", 1979,
equations 2.3 to 2.5, with pseudo-counts, so it is the posterior mode under Dirichlet priors. The prior also says which
way round labels are: that an annotator is more often right than wrong.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from truing_data.agreement.table import Floats, Ints, Votes


class Annotated(NamedTuple):
    """What the votes come to. objective: log posterior, in nats, after each round, up to a constant."""

    posterior: Floats
    frequency: Floats
    confusion: Floats
    objective: list[float]
    converged: bool

    def accuracy(self) -> Floats:
        """How often each annotator is right: [annotator]."""
        return np.einsum("t,att->a", self.frequency, self.confusion)


def dawid_skene(
    votes: Votes,
    *,
    right: float = 2.0,
    wrong: float = 1.0,
    frequent: float = 1.0,
    tolerance: float = 1e-7,
    rounds: int = 1000,
) -> Annotated:
    """Fit the model by expectation maximisation, from vote shares on.

    right, wrong: pseudo-counts of every annotator's confusion, on and off its diagonal. An annotator with few votes is
    thought to be like these. frequent: pseudo-counts m of every label. It ends when a round brings less than
    `tolerance` nats per vote.
    """
    labels, annotators = len(votes.labels), len(votes.annotators)
    prior = np.full((labels, labels), wrong) + (right - wrong) * np.eye(labels)
    cell = votes.annotator * labels + votes.label
    posterior = votes.counts() + 1 / labels
    posterior = posterior / posterior.sum(1, keepdims=True)
    objective: list[float] = []
    while True:
        frequency = (frequent + posterior.sum(0)) / (frequent * labels + votes.items)
        confusion = _confusion(posterior[votes.item], cell, annotators, prior)
        score = np.tile(np.log(frequency), (votes.items, 1))
        np.add.at(score, votes.item, np.log(confusion)[votes.annotator, :, votes.label])
        highest = score.max(1, keepdims=True)
        weight = np.exp(score - highest)
        evidence = float((highest[:, 0] + np.log(weight.sum(1))).sum())
        objective.append(evidence + float(frequent * np.log(frequency).sum() + (prior * np.log(confusion)).sum()))
        posterior = weight / weight.sum(1, keepdims=True)
        gained = objective[-1] - objective[-2] if len(objective) > 1 else np.inf
        if gained < tolerance * max(1, len(votes.item)) or len(objective) == rounds:
            converged = bool(gained < tolerance * max(1, len(votes.item)))
            return Annotated(posterior, frequency, confusion, objective, converged)


def _confusion(belief: Floats, cell: Ints, annotators: int, prior: Floats) -> Floats:
    """The M step of the annotators: belief [vote, label] in the true label, summed by annotator and label said."""
    labels = len(prior)
    sums = [np.bincount(cell, belief[:, true], annotators * labels) for true in range(labels)]
    counts = np.stack(sums, axis=1).reshape(annotators, labels, labels).swapaxes(1, 2) + prior
    return counts / counts.sum(2, keepdims=True)
