"""Where a model is and how it computes: options that all models have, those that learn and those that score."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from truing.stage import ScorerSpec

Arithmetic = Annotated[
    Literal["auto", "fp32", "bf16"],
    Meta(description="arithmetic of the forward pass; auto: bf16 where this machine is measured to be faster at it"),
]
Device = Annotated[Literal["auto", "cpu", "cuda"], Meta(description="where it runs; auto: a GPU if there is one")]
Offload = Annotated[
    bool,
    Meta(
        description="its weights, and its optimizer's state, are on the device only while they are used: else those of "
        "a GPU are in pinned memory of the host, and those of a CPU in a file whose pages go back to the system"
    ),
]


class ModelScorer(ScorerSpec, frozen=True, kw_only=True):
    """The options of a scorer that asks a model which does not learn."""

    dtype: Arithmetic = "auto"
    device: Device = "auto"
    offload: Offload = False

    @property
    def placement(self) -> dict[str, Any]:
        """These, as options of the model."""
        return {"dtype": self.dtype, "device": self.device, "offload": self.offload}
