"""The engine against transformers' own generation, and what it promises of samples, seats and weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.model.conftest import FAMILIES
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from truing.errors import RunFailed, UserError
from truing.fields import (
    COMPLETIONS,
    FINISH,
    GROUP,
    LOGPROBS_OLD,
    LOGPROBS_SAMPLED,
    OPPONENT,
    PROMPT_TOKENS,
    SAMPLES,
    TEMPERATURE,
    TOKENS,
    VERSION,
)
from truing.run import Stopped
from truing_generate.plugin import Engine

from .conftest import Watched
from .samplers import FromFolder, asked, by_completion, generated, prompt_of, run_in

END = 256
"""the byte tokenizer's end token"""


@pytest.mark.parametrize("family", FAMILIES)
def test_the_likeliest_completion_is_the_one_transformers_generates(
    family: str, folder_of: Any, tmp_path: Path
) -> None:
    folder = folder_of(family)
    texts = ("hello there", "x", "a rather longer prompt than the others")
    batch = generated(folder, run_in(tmp_path), asked(*texts), temperature=0.0, samples=2, max_new_tokens=20)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    found = by_completion(batch)
    for at, text in enumerate(texts):
        prompt = torch.tensor([prompt_of(text)])
        whole = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False)
        expected = whole[0, prompt.shape[1] :].tolist()
        assert found[2 * at] == found[2 * at + 1] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_the_models_own(family: str, folder_of: Any, tmp_path: Path) -> None:
    batch = generated(folder_of(family), run_in(tmp_path), asked("one", "another prompt"), temperature=0.7, top_k=5)
    model: Any = AutoModelForCausalLM.from_pretrained(folder_of(family))
    prompts = batch[PROMPT_TOKENS].split([3, 14])
    for group, tokens, logprobs in zip(
        batch[GROUP].tolist(), by_completion(batch), by_completion(batch, LOGPROBS_OLD), strict=True
    ):
        row = torch.cat([prompts[group], torch.tensor(tokens)])
        logits = model(row[None]).logits[0, len(prompts[group]) - 1 : -1].log_softmax(1)
        expected = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logprobs), expected, rtol=0, atol=1e-4)
    assert bool((batch[LOGPROBS_SAMPLED] >= batch[LOGPROBS_OLD] - 1e-4).any())


@given(st.integers(1, 9), st.lists(st.sampled_from(["one", "another", "third prompt", "x"]), unique=True, min_size=1))
@settings(deadline=None, max_examples=15)
def test_a_sample_is_the_same_whatever_sits_beside_it(
    folder_of: Any, tmp_path_factory: pytest.TempPathFactory, seats: int, texts: list[str]
) -> None:
    place = tmp_path_factory.mktemp("run")
    batch = generated(folder_of("llama"), run_in(place), asked(*texts), seats=seats)
    alone = [by_completion(generated(folder_of("llama"), run_in(place), asked(text), seats=64)) for text in texts]
    assert by_completion(batch) == [tokens for some in alone for tokens in some]


def test_samples_differ_from_each_other_from_seed_to_seed_and_from_version_to_version(
    folder_of: Any, tmp_path: Path
) -> None:
    folder = folder_of("llama")
    first = by_completion(generated(folder, run_in(tmp_path), asked("prompt"), samples=4))
    assert len({tuple(tokens) for tokens in first}) == 4
    assert by_completion(generated(folder, run_in(tmp_path), asked("prompt"), samples=4)) == first
    assert by_completion(generated(folder, run_in(tmp_path, seed=1), asked("prompt"), samples=4)) != first
    later = FromFolder(folder, version=3)
    other = generated(folder, run_in(tmp_path), asked("prompt"), later, samples=4)
    assert by_completion(other) != first
    assert other[VERSION].tolist() == [3] * 4


def test_completions_end_where_they_should_and_say_why(folder_of: Any, tmp_path: Path) -> None:
    batch = generated(folder_of("llama"), run_in(tmp_path), asked("p", "q"), samples=60, max_new_tokens=30)
    for tokens, finish in zip(by_completion(batch), batch[FINISH], strict=True):
        assert (tokens[-1] == END) is (finish == "end")
        assert END not in tokens[:-1]
        assert finish == "end" or len(tokens) == 30
    assert set(batch[FINISH]) == {"end", "length"}


def test_a_stop_string_ends_a_completion_keeps_its_tokens_and_is_cut_from_its_text(
    folder_of: Any, tmp_path: Path
) -> None:
    free = generated(folder_of("llama"), run_in(tmp_path), asked("p"), samples=1, temperature=0.0, max_new_tokens=9)
    text = str(free[COMPLETIONS][0])
    assert len(text) > 4
    stop = text[2:4]
    batch = generated(
        folder_of("llama"), run_in(tmp_path), asked("p"), samples=1, temperature=0.0, max_new_tokens=9, stop=[stop]
    )
    assert batch[FINISH] == ["stop"]
    assert batch[COMPLETIONS] == [text[: text.index(stop)]]
    assert by_completion(batch)[0] == by_completion(free)[0][: len(batch[TOKENS])]


def test_a_prompt_is_computed_once_and_a_free_seat_is_taken_at_once(
    folder_of: Any, tmp_path: Path, watched: Watched
) -> None:
    prefilled, steps = watched
    batch = generated(
        folder_of("llama"), run_in(tmp_path), asked("one", "another"), samples=20, seats=5, max_new_tokens=30
    )
    assert sum(prefilled) == len("one") + len("another")
    # The first token of each completion comes from its prompt, and every step fills each seat while anybody waits.
    assert sum(steps) == len(batch[TOKENS]) - 40
    assert all(filled == 5 for filled in steps[: len(steps) // 2])


def test_new_weights_are_written_into_the_same_model(folder_of: Any, tmp_path: Path) -> None:
    async def go() -> None:
        engine = Engine(dtype="fp32", device="cpu", samples=1, max_new_tokens=8, temperature=0.0).build(
            run_in(tmp_path)
        )
        await engine.sync_weights(FromFolder(folder_of("llama")))
        model = engine._voices.policy.model
        places = {name: value.data_ptr() for name, value in model.named_parameters()}
        before = await engine.generate(asked("hello"))
        await engine.sync_weights(FromFolder(folder_of("llama"), version=1, scaled=0.5))
        assert engine._voices.policy.model is model
        assert {name: value.data_ptr() for name, value in model.named_parameters()} == places
        after = await engine.generate(asked("hello"))
        assert not torch.equal(before[LOGPROBS_OLD][:1], after[LOGPROBS_OLD][:1])
        await engine.sync_weights(FromFolder(folder_of("llama"), version=2))
        assert torch.equal((await engine.generate(asked("hello")))[LOGPROBS_OLD], before[LOGPROBS_OLD])

    anyio.run(go)


def test_weights_that_lack_a_tensor_are_refused(folder_of: Any, tmp_path: Path) -> None:
    lacking = FromFolder(folder_of("llama"), without="model.norm.weight")
    with pytest.raises(RunFailed, match=r"lack model\.norm\.weight"):
        generated(folder_of("llama"), run_in(tmp_path), asked("x"), lacking)


def test_an_engine_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="before it was given any weights"):
        anyio.run(partial(Engine().build(run_in(tmp_path)).generate, asked("x")))


def test_a_request_to_stop_lets_go_between_two_tokens(folder_of: Any, tmp_path: Path) -> None:
    run = run_in(tmp_path)
    run.stop.ask("enough")
    with pytest.raises(Stopped):
        generated(folder_of("llama"), run, asked("x"))


def test_a_model_that_cannot_be_sampled_from_here_is_refused_with_a_way_out(folder_of: Any, tmp_path: Path) -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "head_dim": 8}
    Gemma2ForCausalLM(Gemma2Config(vocab_size=300, num_key_value_heads=2, **size)).save_pretrained(tmp_path / "gemma")
    for file in folder_of("llama").glob("token*"):
        (tmp_path / "gemma" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r'cannot sample from .*(?s:.)*use = "openai"'):
        generated(tmp_path / "gemma", run_in(tmp_path), asked("x"))


def test_bf16_samples_stay_close_to_the_model(folder_of: Any, tmp_path: Path) -> None:
    batch = generated(folder_of("llama"), run_in(tmp_path), asked("one"), dtype="bf16", samples=8)
    assert bool(batch[LOGPROBS_OLD].isfinite().all())
    assert bool((batch[LOGPROBS_OLD] <= 0).all())


def test_a_batch_may_ask_for_other_samples_at_another_temperature(folder_of: Any, tmp_path: Path) -> None:
    asks = asked("one", "another").put_all({SAMPLES: 2, TEMPERATURE: 0.0})
    batch = generated(folder_of("llama"), run_in(tmp_path), asks, samples=4, opponents=1, mixture=0.0)
    greedy = generated(folder_of("llama"), run_in(tmp_path), asked("one", "another"), samples=2, temperature=0.0)
    assert by_completion(batch) == by_completion(greedy)
    assert batch[OPPONENT].tolist() == [0] * 4
