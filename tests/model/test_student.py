"""A student and its teacher: the divergence over all of the vocabulary, its gradient, and who learns."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.conftest import pairs, write_family
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import GROUP, LOGPROBS, PROMPT_GROUP, PROMPT_TOKENS, SEQ, TEACHER_DIVERGENCE, TOKENS, Batch, fields
from truing.run import Run
from truing.testing import check_spec
from truing_feedback.menu_distill import Distill
from truing_model import jensen_shannon as module
from truing_model.jensen_shannon import Side, divergence, jensen_shannon
from truing_model.menu_student import Student
from truing_model.plugin import AdamW
from truing_tensor.groups import batch_of
from truing_tensor.testing import check_loss

BETAS = (0.0, 0.2, 0.5, 0.9, 1.0)


def slowly(p: list[float], q: list[float], beta: float) -> float:
    """The divergence of one token, number by number, in the words of arXiv:2306.13649, eq. 1."""

    def kl(one: list[float], other: list[float]) -> float:
        return math.fsum(a * math.log(a / b) for a, b in zip(one, other, strict=True))

    if beta == 0:
        return kl(p, q)
    if beta == 1:
        return kl(q, p)
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def sides(tokens: int = 5, more: int = 0) -> tuple[Tensor, Tensor, Side]:
    """Hidden states and matrix of a student, and a teacher of another width; more: words that it alone has."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    theirs = torch.randn(tokens, 7, dtype=torch.float64), torch.randn(9 + more, 7, dtype=torch.float64)
    return hidden, weight, Side(*theirs, torch.float64)


def ours(hidden: Tensor, weight: Tensor, teacher: Side, beta: float) -> Tensor:
    return jensen_shannon(Side(hidden, weight, torch.float64), teacher, beta)


@pytest.mark.parametrize("beta", BETAS)
def test_it_is_the_formula_worked_out_number_by_number_and_so_is_its_gradient(
    beta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    hidden, weight, teacher = sides()
    p = (teacher.hidden @ teacher.weight.T).softmax(1).tolist()

    def worked_out(states: Tensor, matrix: Tensor) -> list[float]:
        q = (states @ matrix.T).softmax(1).tolist()
        return [slowly(*each, beta) for each in zip(p, q, strict=True)]

    found = ours(hidden, weight, teacher, beta)
    assert found.tolist() == pytest.approx(worked_out(hidden, weight), abs=1e-13)
    scale = [0.3, -1.0, 2.0, 0.0, 0.7]
    (found * torch.tensor(scale)).sum().backward()
    for values in (hidden, weight):
        flat = values.detach().view(-1)
        for at in random.Random(0).sample(range(len(flat)), 8):
            before, ends = flat[at].item(), list[float]()
            for step in (1e-6, -1e-6):
                flat[at] = before + step
                told = worked_out(hidden.detach(), weight.detach())
                ends.append(math.fsum(a * b for a, b in zip(scale, told, strict=True)))
            flat[at] = before
            assert values.grad is not None
            assert values.grad.view(-1)[at].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


def test_near_its_ends_it_goes_to_the_forward_and_to_the_reverse_divergence() -> None:
    hidden, weight, teacher = sides()
    forward, reverse = (ours(hidden, weight, teacher, beta) for beta in (0.0, 1.0))
    small = 1e-6
    torch.testing.assert_close(ours(hidden, weight, teacher, small) / small, forward, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours(hidden, weight, teacher, 1 - small) / small, reverse, rtol=1e-3, atol=1e-6)
    assert (forward - reverse).abs().min() > 1e-3
    half = ours(hidden, weight, teacher, 0.5)
    assert bool((half <= math.log(2)).all())


@pytest.mark.parametrize("beta", BETAS)
def test_whoever_says_what_the_teacher_says_is_at_no_distance_and_learns_nothing(beta: float) -> None:
    hidden, weight, _ = sides()
    found = ours(hidden, weight, Side(hidden.detach(), weight.detach(), torch.float64), beta)
    gradient, _ = torch.autograd.grad(found.sum(), (hidden, weight))
    assert found.abs().max() < 1e-14
    assert gradient.abs().max() < 1e-14


def test_of_vocabularies_that_are_padded_unalike_the_tokens_of_both_count() -> None:
    hidden, weight, teacher = sides(more=3)
    cut = teacher._replace(weight=teacher.weight[:9])
    torch.testing.assert_close(ours(hidden, weight, teacher, 0.5), ours(hidden, weight, cut, 0.5))
    wide = torch.cat([weight.detach(), torch.randn(2, 4, dtype=torch.float64)]).requires_grad_()
    [gradient] = torch.autograd.grad(ours(hidden, wide, cut, 0.5).sum(), wide)
    assert gradient[9:].abs().max() == 0
    assert gradient[:9].abs().min() > 0


class Largest(TorchDispatchMode):
    """How many entries the largest tensor has that any operation makes."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.entries = max(self.entries, *(each.numel() for each in [made] if isinstance(each, Tensor)), 0)
        return made


def test_tokens_times_vocabulary_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 8)
    hidden, weight, teacher = sides(200)
    with Largest() as mine:
        ours(hidden, weight, teacher, 0.5).sum().backward()
    with Largest() as naive:
        divergence(teacher.hidden @ teacher.weight.T, hidden @ weight.T, 0.5).sum().backward()
    assert mine.entries <= max(hidden.numel(), teacher.hidden.numel(), 8 * 9) < naive.entries == 200 * 9


@pytest.fixture
def teacher(tmp_path: Path, family_folder: Any) -> Path:
    """A teacher of the student's family that says other things."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "teacher"
    write_family("llama", folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(7)
    with torch.no_grad():
        for values in model.parameters():
            values += 0.1 * torch.randn_like(values)
    model.save_pretrained(folder)
    return folder


def student(folder: Path, teacher: Path, tmp_path: Path, **options: Any) -> Any:
    run = Run("test", tmp_path, 0, Bus(), wanted=fields(TEACHER_DIVERGENCE))
    spec = Student(path=str(folder), teacher=str(teacher), dtype="fp32", device="cpu", **options)
    return spec.build(run), run


@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_a_student_tells_at_every_token_how_far_it_is_from_its_teacher(
    layout: str, family_folder: Any, teacher: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model, _ = student(family_folder("llama"), teacher, tmp_path, layout=layout, beta=0.3)
    batch = model.encode(batch_of(pairs(3))).batch
    found = model._look(batch)[TEACHER_DIVERGENCE]
    both = [AutoModelForCausalLM.from_pretrained(place) for place in (teacher, family_folder("llama"))]
    expected = list[Tensor]()
    for seq in range(int(batch[SEQ].max()) + 1):
        prompt = batch[PROMPT_TOKENS][batch[PROMPT_GROUP] == batch[GROUP][seq]]
        own = batch[TOKENS][batch[SEQ] == seq]
        with torch.no_grad():
            p, q = (
                one(input_ids=torch.cat([prompt, own])[None]).logits[0, len(prompt) - 1 : -1].log_softmax(1)
                for one in both
            )
        expected.append(divergence(p, q, 0.3))
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-3, atol=1e-5)
    assert found.min() > 0


@pytest.mark.parametrize("rank", [0, 4])
def test_it_comes_nearer_step_by_step_and_the_teacher_stays_and_is_written_nowhere(
    rank: int, family_folder: Any, teacher: Path, tmp_path: Path
) -> None:
    model, run = student(family_folder("llama"), teacher, tmp_path, lora_rank=rank)
    before = [value.clone() for value in model.network._teacher[0].parameters()]
    assert not {id(value) for value in model.network.parameters()} & {
        id(value) for value in model.network._teacher[0].parameters()
    }
    model.attach(AdamW(lr=3e-2).build(run), 8)
    batch, loss = model.encode(batch_of(pairs(3))).batch, Distill().build(run)
    told = [model.learn(batch, loss)["loss"] for _ in range(8)]
    assert told[-1] < 0.95 * told[0]
    after = list(model.network._teacher[0].parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    model.export(tmp_path / "out")
    index = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    assert index < 1.5 * sum(file.stat().st_size for file in family_folder("llama").glob("*.safetensors"))


def test_the_divergence_is_not_made_where_nobody_wants_it(family_folder: Any, teacher: Path, tmp_path: Path) -> None:
    run = Run("test", tmp_path, 0, Bus())
    model: Any = Student(path=str(family_folder("llama")), teacher=str(teacher), device="cpu").build(run)
    assert set(model._look(model.encode(batch_of(pairs(2))).batch)) == {LOGPROBS}


def test_a_teacher_with_another_tokenizer_is_refused_before_and_after_anything_is_loaded(
    family_folder: Any, teacher: Path, tmp_path: Path
) -> None:
    ours = family_folder("llama")
    assert not list(Student(path=str(ours), teacher=str(teacher)).problems())
    file = teacher / "tokenizer.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    words = list(told["model"]["vocab"])
    one, other = (told["model"]["vocab"][word] for word in words[:2])
    told["model"]["vocab"][words[0]], told["model"]["vocab"][words[1]] = other, one
    file.write_text(json.dumps(told), encoding="utf-8")
    (fault,) = Student(path=str(ours), teacher=str(teacher)).problems()
    assert (fault.option, fault.what) == ("teacher", f"its tokenizer is not that of {ours}")
    with pytest.raises(UserError, match="2 of 260 tokens differ"):
        student(ours, teacher, tmp_path)


def test_its_specs_keep_their_promises() -> None:
    check_spec(Student, path="organisation/student", teacher="organisation/teacher")
    check_spec(Distill)
    check_loss(Distill())
    check_loss(Distill(mean="token"))
    value = Distill().build(Run("test", Path(), 0, Bus()))
    batch = Batch({TEACHER_DIVERGENCE: torch.tensor([1.0, 3.0, 5.0]), SEQ: torch.tensor([0, 0, 1])})
    assert value(batch).terms["distill"].total == 7.0
