"""The menu entry of a model that learns from a stronger one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from truing.check import PHASE_MODEL
from truing.fields import TEACHER_DIVERGENCE, Fields, fields
from truing.stage import Fault
from truing_model import paths
from truing_model.plugin import CausalLm

MEND = "name a teacher with the same tokenizer, or let it write and learn that with the loss sft"


class Student(CausalLm, frozen=True, kw_only=True):
    """A causal language model that learns from a teacher's probabilities at every token (arXiv:2306.13649).

    Teacher and student go through the same completions, whoever wrote them: the student itself, where the phase has a
    generator, or the source. How far the two are apart is told over all of the vocabulary, a few tokens at a time, so
    nothing as large as tokens times vocabulary is ever held. The teacher has the student's tokenizer and learns
    nothing.
    """

    name: ClassVar[str] = "student"
    target: ClassVar[str] = "truing_model.student:Student"

    teacher: Annotated[
        str,
        Meta(
            description="the model that is learned from: a folder, a hub id, a .gguf file, or @PHASE", extra=PHASE_MODEL
        ),
    ]
    beta: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="of the generalised Jensen-Shannon divergence: 0 is the forward KL, which covers all that the "
            "teacher may say; 1 the reverse KL, which keeps to what it surely says; between, something of both",
        ),
    ] = 0.5
    teacher_dtype: Annotated[
        Literal["auto", "fp32", "bf16"],
        Meta(description="how the teacher's weights are held, and its arithmetic; auto: fp32, and as the student"),
    ] = "auto"

    def provides(self) -> Fields:
        """What a language model does, and how far it is from its teacher."""
        return CausalLm.provides(self) | fields(TEACHER_DIVERGENCE)

    def problems(self) -> Iterable[Fault]:
        """A teacher that is not there, or calls its tokens otherwise, as far as files at hand say."""
        yield from CausalLm.problems(self)
        yield from (fault._replace(option="teacher") for fault in paths.problems(self.teacher))
        ours, theirs = (_vocabulary(Path(path).expanduser()) for path in (self.path, self.teacher))
        if ours is not None and theirs is not None and ours != theirs:
            yield Fault("teacher", f"its tokenizer is not that of {self.path}", MEND)


def _vocabulary(folder: Path) -> Any:
    """The words of a folder's tokenizer by their numbers; None where no file says."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    told = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    added = {str(word.get("content")): word.get("id") for word in told.get("added_tokens", [])}
    return told.get("model", {}).get("vocab"), added
