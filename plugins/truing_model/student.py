"""A student and its teacher, side by side: both go through the same rows, and the divergence is read off both."""

from __future__ import annotations

import torch
from torch import Tensor

from truing.errors import Problem, UserError
from truing.fields import TEACHER_DIVERGENCE, Field, Fields, fields
from truing.run import Run
from truing_model import menu_student as menu
from truing_model.causal import CausalLm
from truing_model.forward import Network
from truing_model.jensen_shannon import Side, jensen_shannon
from truing_model.layout import Row
from truing_model.loading import same_tokens
from truing_tensor.decoder import plain_head
from truing_tensor.machine import let_go_of_freed_memory


class Taught(Network):
    """A network that also gives TEACHER_DIVERGENCE [token], in nats."""

    def __init__(self, network: Network, teacher: Network, beta: float) -> None:
        super().__init__(network.model, network._decoder, dict(network.heads.items()), network.gives, network.bf16)
        # In a tuple, so that its weights are none of this model's: they do not learn and are not written down.
        self._teacher = (teacher,)
        self._beta = beta

    def _of_vocabulary(self, row: Row, hidden: Tensor, device: torch.device) -> dict[Field[Tensor], Tensor]:
        found = super()._of_vocabulary(row, hidden, device)
        if TEACHER_DIVERGENCE in self.gives:
            (teacher,) = self._teacher
            with torch.no_grad():
                theirs = teacher.predicting(row, device)
            sides = (_side(self, hidden), _side(teacher, theirs))
            found[TEACHER_DIVERGENCE] = jensen_shannon(*sides, self._beta).float()
        return found


class Student(CausalLm):
    """A causal language model beside a frozen one that it learns from."""

    spec: menu.Student

    def __init__(self, spec: menu.Student, run: Run) -> None:
        super().__init__(spec, run)
        place = run.resolve(spec.teacher)
        same_tokens(spec, place, spec.teacher, self.tokenizer, menu.MEND)
        held = torch.bfloat16 if spec.teacher_dtype == "bf16" else torch.float32
        model = self._load(place, held).requires_grad_(False).eval().to(self.device)
        decoder = self._decoder(model) if self.layout == "shared" else None
        for path, some in ((spec.path, self.network.base), (spec.teacher, model)):
            if plain_head(some) is None:
                raise UserError(Problem(path, "it does more to its logits than one matrix product", "name another one"))
        if self.layout == "shared" and not decoder:
            raise UserError(Problem(spec.teacher, "it cannot have the shared rows of its student", _PLAIN))
        in_bf16 = self.bf16 if spec.teacher_dtype == "auto" else spec.teacher_dtype == "bf16"
        teacher = Network(model, decoder, {}, fields(), in_bf16)
        self.network = Taught(self.network, teacher, spec.beta).to(self.device)
        let_go_of_freed_memory()

    def _gives(self) -> Fields:
        return super()._gives() | (fields(TEACHER_DIVERGENCE) & self.run.wanted)


_PLAIN = 'set layout = "plain"'


def _side(network: Network, hidden: Tensor) -> Side:
    weight = network.base.get_output_embeddings().weight
    return Side(hidden, weight, torch.bfloat16 if network.bf16 else weight.dtype)
