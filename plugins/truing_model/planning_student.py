"""What a student takes beside what any language model does: its teacher, and both vocabularies at once."""

from __future__ import annotations

from typing import NamedTuple

from truing.fields import fields
from truing_model import plugin
from truing_model.head import CHUNK
from truing_model.memory import Shape
from truing_model.menu_student import Student
from truing_model.trial import Outline

_AT_ONCE = 6
"""arrays [chunk, vocabulary] in fp32 that exist together while the divergence of a chunk becomes a gradient"""


class Teaching(NamedTuple):
    """A student and whom it learns from."""

    student: Outline
    teacher: Outline

    @classmethod
    def of(cls, student: Outline, shape: Shape) -> Teaching | None:
        """Those of a model; None if it has no teacher, or one whose shape nobody knows. Raises UserError."""
        if not isinstance(student.spec, Student):
            return None
        spec = plugin.CausalLm(path=student.spec.teacher, dtype=student.spec.dtype, device=student.spec.device)
        found = shape(spec)
        return cls(student, Outline(spec, *found, fields(), student.device)) if found else None

    def bytes(self, targets: int) -> dict[str, int]:
        """The teacher's weights, and what is made of logits of both. targets: tokens of the largest piece."""
        spec = self.student.spec
        each = 2 if isinstance(spec, Student) and spec.teacher_dtype == "bf16" else 4
        logits = _AT_ONCE * 4 * self.student.size.words * min(targets, CHUNK)
        return {"teacher": each * self.teacher.size.base, "divergence": logits}

    def seconds(self, look: float, words: float) -> dict[str, float]:
        """What a step takes of it. look: seconds of a pass of the student without gradients; words: of its vocabulary
        in that. Logits of both are made twice, those of the student once more than it would by itself."""
        ratio = self.teacher.size.costs.token / self.student.size.costs.token
        table = self.teacher.size.table / self.student.size.table
        return {"teacher": ratio * (look - words) + table * words, "divergence": words * (2 + table)}
