"""What sets the coefficient of the KL divergence from step to step; the menu has the formulas."""

from __future__ import annotations

from collections.abc import Mapping

from truing.fields import GROUP, KL_COEFFICIENT, LOGPROBS_OLD, LOGPROBS_REF, Batch
from truing.run import Run
from truing_policy import menu_controllers as menu
from truing_tensor.divergence import divergence


class AdaptiveKl:
    """The coefficient grows and shrinks by a share of itself."""

    def __init__(self, spec: menu.AdaptiveKl, run: Run) -> None:
        self._spec = spec
        self._coefficient = spec.start

    def put(self, batch: Batch) -> Batch:
        """The batch with KL_COEFFICIENT."""
        return batch.put(KL_COEFFICIENT, self._coefficient)

    def follow(self, batch: Batch) -> Mapping[str, float]:
        """Set the coefficient of the next step."""
        spec, kl = self._spec, measured(batch)
        error = max(-spec.clip, min(spec.clip, (kl - spec.nats) / spec.nats))
        self._coefficient *= 1 + spec.gain * error
        return {"kl/completion": kl, "kl/coefficient": batch[KL_COEFFICIENT]}

    def kept(self) -> Mapping[str, float]:
        """The coefficient."""
        return {"coefficient": self._coefficient}

    def restore(self, kept: Mapping[str, float]) -> None:
        """Go on from what was kept."""
        self._coefficient = kept["coefficient"]


class KlBudget:
    """Proportional and integral control of a Lagrange multiplier, which is never negative."""

    def __init__(self, spec: menu.KlBudget, run: Run) -> None:
        self._spec = spec
        self._steps = self._sum = self._coefficient = 0.0

    def put(self, batch: Batch) -> Batch:
        """The batch with KL_COEFFICIENT."""
        return batch.put(KL_COEFFICIENT, self._coefficient)

    def follow(self, batch: Batch) -> Mapping[str, float]:
        """Set the coefficient of the next step."""
        spec, kl = self._spec, measured(batch)
        allowed = min(spec.nats, spec.pace * self._steps) if spec.pace else spec.nats
        error = min(1.0, (kl - allowed) / spec.nats)
        self._steps += 1
        self._sum = max(0.0, self._sum + error)
        self._coefficient = max(0.0, spec.proportional * error + spec.integral * self._sum)
        return {"kl/completion": kl, "kl/coefficient": batch[KL_COEFFICIENT], "kl/allowed": allowed}

    def kept(self) -> Mapping[str, float]:
        """The coefficient, the sum of errors, and the steps taken."""
        return {"coefficient": self._coefficient, "sum": self._sum, "steps": self._steps}

    def restore(self, kept: Mapping[str, float]) -> None:
        """Go on from what was kept."""
        self._coefficient, self._sum, self._steps = kept["coefficient"], kept["sum"], kept["steps"]


def measured(batch: Batch) -> float:
    """The divergence of a batch's completions from the reference: the mean of their log-ratios, in nats."""
    return float(divergence(batch[LOGPROBS_OLD], batch[LOGPROBS_REF], "k1").sum()) / len(batch[GROUP])
