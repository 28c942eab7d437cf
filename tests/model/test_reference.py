"""What the reference said is kept, found again, and never taken for something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.conftest import pairs

from truing.errors import RunFailed
from truing.events import Event, Notice
from truing.fields import LOGPROBS_REF, Batch, Group, fields
from truing.run import Run
from truing_model.causal import CausalLm as Built
from truing_model.encode import Encoder
from truing_model.plugin import AdamW, CausalLm
from truing_model.reference import ReferenceStore, fingerprint, group_keys
from truing_model.scratch import byte_tokenizer
from truing_preference.plugin import Dpo
from truing_tensor.groups import batch_of, take

WANTED = fields(LOGPROBS_REF)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """Every micro-batch that went through a model without gradients."""
    seen: list[Batch] = []
    look = Built._look
    monkeypatch.setattr(Built, "_look", lambda self, *asked: seen.append(asked[0]) or look(self, *asked))
    return seen


def model_of(folder: Path, run: Run, **options: Any) -> Any:
    return CausalLm(path=str(folder), **{"dtype": "fp32", "device": "cpu", **options}).build(run)


def folders(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "reference").iterdir())


@pytest.mark.parametrize("rank", [0, 4])
def test_a_group_is_asked_once_and_another_run_asks_nothing(
    rank: int, family_folder: Any, run: Run, forwards: list[Batch]
) -> None:
    model = model_of(family_folder("llama"), run, lora_rank=rank)
    batch = model.encode(batch_of(pairs())).batch
    first = model.annotate(batch, WANTED)[LOGPROBS_REF]
    assert forwards
    forwards.clear()
    again = model.annotate(take(batch, [2, 0]), WANTED)[LOGPROBS_REF]
    model._keep_reference()
    other = model_of(family_folder("llama"), run, lora_rank=rank)
    assert torch.equal(other.annotate(batch, WANTED)[LOGPROBS_REF], first)
    assert not forwards
    assert torch.equal(again, take(batch.put(LOGPROBS_REF, first), [2, 0])[LOGPROBS_REF])


def test_what_was_heard_between_the_same_words_is_another_question() -> None:
    said = [
        [{"role": role, "content": text} for role, text in zip(("assistant", "user", "assistant"), texts, strict=True)]
        for texts in (("a", "x", "b"), ("a", "y", "b"), ("a", "x", "b"))
    ]
    groups = [Group(id=f"g{at}", prompt="q", completions=["c", turns]) for at, turns in enumerate(said)]
    keys = group_keys(Encoder(byte_tokenizer(), 64, truncate=False)(batch_of(groups)).batch)
    assert keys[0] == keys[2] != keys[1]


def test_only_groups_that_are_not_known_are_asked(family_folder: Any, run: Run, forwards: list[Batch]) -> None:
    model = model_of(family_folder("llama"), run, micro_tokens=10_000)
    batch = model.encode(batch_of(pairs())).batch
    whole = model_of(family_folder("llama"), run).annotate(batch, WANTED)[LOGPROBS_REF]
    model.annotate(take(batch, [1, 3]), WANTED)
    forwards.clear()
    found = model.annotate(batch, WANTED)[LOGPROBS_REF]
    assert [len(group_keys(piece)) for piece in forwards] == [3]
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)


def test_after_steps_the_reference_is_still_the_model_as_it_was_loaded(family_folder: Any, run: Run) -> None:
    model = model_of(family_folder("llama"), run)
    model.attach(AdamW(lr=1e-2).build(run), 3)
    batch = model.encode(batch_of(pairs())).batch
    before = model.annotate(batch, WANTED)
    model.learn(before, Dpo().build(run))
    model.store._known.clear()
    torch.testing.assert_close(model.annotate(batch, WANTED)[LOGPROBS_REF], before[LOGPROBS_REF], rtol=0, atol=1e-6)


def test_other_weights_other_precision_and_other_tokens_are_other_questions(family_folder: Any, run: Run) -> None:
    model = model_of(family_folder("llama"), run).network.model
    name = fingerprint(model, "fp32")
    assert fingerprint(model, "fp32") == name
    assert fingerprint(model, "bf16") != name
    with torch.no_grad():
        next(model.parameters())[3, 2] += 1e-3
    assert fingerprint(model, "fp32") != name
    encode = model_of(family_folder("llama"), run).encode
    texts = [("ab", "c"), ("a", "bc"), ("abc", ""), ("ab", "cd")]
    groups = [Group(id=str(at), prompt=prompt, completions=[text]) for at, (prompt, text) in enumerate(texts)]
    assert len(set(group_keys(encode(batch_of(groups)).batch))) == len(texts)


@pytest.mark.parametrize("damage", ["torn", "rubbish"])
def test_a_file_that_cannot_be_read_is_said_and_computed_again(
    damage: str, family_folder: Any, run: Run, tmp_path: Path
) -> None:
    model = model_of(family_folder("llama"), run)
    batch = model.encode(batch_of(pairs())).batch
    first = model.annotate(batch, WANTED)[LOGPROBS_REF]
    model._keep_reference()
    [folder] = folders(tmp_path)
    [file] = folder.iterdir()
    file.write_bytes(file.read_bytes()[:100] if damage == "torn" else b"rubbish" * 50)
    told: list[Event] = []
    run.bus._keep = told.append
    other = model_of(family_folder("llama"), run)
    assert torch.equal(other.annotate(batch, WANTED)[LOGPROBS_REF], first)
    assert ["computed again" in event.text for event in told if isinstance(event, Notice)] == [True]


def test_an_answer_of_the_wrong_length_or_that_is_no_number_is_not_used(tmp_path: Path) -> None:
    store = ReferenceStore(tmp_path, print)
    store.put("short", torch.zeros(2))
    store.put("broken", torch.tensor([0.0, float("nan")]))
    assert store.get("short", 3) is None
    assert store.get("broken", 2) is None
    assert store.get("short", 2) is not None


def test_a_cache_that_cannot_be_written_costs_a_notice_and_no_run(tmp_path: Path) -> None:
    told: list[str] = []
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    store = ReferenceStore(blocked / "store", told.append)
    store.put("key", torch.zeros(2))
    store.flush()
    assert len(told) == 1
    assert store.get("key", 2) is not None


def test_a_reference_that_gives_no_numbers_ends_the_run_and_names_the_groups(family_folder: Any, run: Run) -> None:
    model = model_of(family_folder("llama"), run)
    with torch.no_grad():
        next(model.reference.parameters()).fill_(float("nan"))
    with pytest.raises(RunFailed, match="the reference gives as `logprobs` is not a number; the groups were"):
        model.annotate(model.encode(batch_of(pairs(3))).batch, WANTED)


def test_a_copy_is_held_and_computed_as_the_recipe_says(family_folder: Any, run: Run) -> None:
    whole = model_of(family_folder("llama"), run)
    half = model_of(family_folder("llama"), run, reference_dtype="bf16", reference_device="cpu")
    batch = whole.encode(batch_of(pairs())).batch
    assert {value.dtype for value in half.reference.model.parameters()} == {torch.bfloat16}
    exact, rounded = (model.annotate(batch, WANTED)[LOGPROBS_REF] for model in (whole, half))
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05)
    of_adapter = CausalLm(path="x", lora_rank=4, reference_dtype="bf16", reference_device="cpu")
    assert {fault.option for fault in of_adapter.problems()} >= {"reference_dtype", "reference_device"}
