"""Text to tokens, the boundary between prompt and completion exact.

The chat template is applied once, to prompt and completion together, and its own text decides where the completion
begins; special tokens come from the template alone, so none is doubled. A completion ends with the end token: what a
template writes after it (a newline, often) is never generated, so it is not learned.

Completions that are held to differ, the two of a pair, those of a ranking, a desirable and an undesirable one, may have
become the same tokens: cut at the same place, or a template trimmed what set them apart. There is nothing to learn from
such a pair, so it is left out and counted; a group of which no other is left, or that is ranked or labelled as a whole,
is dropped by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from truing.errors import Problem, UserError
from truing.fields import (
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    LABEL,
    MISMATCHED,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    RANK,
    REJECTED,
    SEQ,
    TOKENS,
    Batch,
    Message,
    Text,
)
from truing.stage import Encoded
from truing_tensor.groups import take, take_along
from truing_tensor.segments import owners


@dataclass(frozen=True)
class Encoder:
    """Encodes batches for one tokenizer.

    max_tokens: longest prompt plus completion. truncate: cut the completion of a longer one, else drop its group.
    """

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    truncate: bool

    def __call__(self, batch: Batch) -> Encoded:
        """Add PROMPT_TOKENS and TOKENS and what belongs to them. Raises UserError if the template cannot serve."""
        completions: list[list[str | list[Message]]] = [[] for _ in batch[IDS]]
        for group, text in zip(batch[GROUP].tolist(), batch[COMPLETIONS], strict=True):
            completions[group].append(text)
        held_apart = compared(batch)
        kept: list[int] = []
        dropped: list[tuple[str, str]] = []
        prompts: list[list[int]] = []
        tokens: list[list[int]] = []
        truncated, alike, as_a_whole = 0, 0, RANK in batch or LABEL in batch
        for at, (name, prompt, texts) in enumerate(zip(batch[IDS], batch[PROMPTS], completions, strict=True)):
            start, ends = self.group(name, prompt, texts)
            room = self.max_tokens - len(start)
            length = max(map(len, ends), default=1)
            if room < 1 or (not self.truncate and length > room):
                longest = len(start) + length
                dropped.append(
                    (name, f"{longest} tokens, {len(start)} of them prompt; max_tokens is {self.max_tokens}")
                )
                continue
            cut = [end[:room] for end in ends]
            same = [two for two in held_apart[at] if cut[two[0]] == cut[two[1]]]
            if same and (as_a_whole or len(same) == len(held_apart[at])):
                dropped.append((name, self._alike(same[0], cut, ends)))
                continue
            alike += len(same)
            kept.append(at)
            prompts.append(start)
            truncated += sum(len(end) > room for end in ends)
            tokens.extend(cut)
        encoded = with_tokens(take(batch, kept), prompts, tokens)
        return Encoded(_told_apart(encoded, tokens) if alike else encoded, dropped, truncated, alike)

    def group(self, name: str, prompt: Text, completions: list[Text]) -> tuple[list[int], list[list[int]]]:
        """The tokens of one prompt and of each of its completions."""
        before = self._prompt_text(name, prompt)
        start = self._ids(before)
        if isinstance(prompt, str):
            # A tokenizer that opens every text with its begin token does so here; a template writes its own.
            start = self._opening() + start
        if not start:
            raise UserError(Problem(name, "an empty prompt, and this tokenizer has no begin token to start from"))
        return start, [self._completion(name, prompt, before, text) for text in completions]

    def _alike(self, two: tuple[int, int], cut: list[list[int]], ends: list[list[int]]) -> str:
        what = f"completions {two[0] + 1} and {two[1] + 1} are to differ, and are the same {len(cut[two[0]])} tokens"
        shortened = any(len(ends[at]) > len(cut[at]) for at in two)
        return f"{what} once cut; max_tokens is {self.max_tokens}" if shortened else what

    def _completion(self, name: str, prompt: Text, before: str, completion: Text) -> list[int]:
        whole = (
            before + cast(str, completion) if isinstance(prompt, str) else self._whole_text(name, prompt, completion)
        )
        if not whole.startswith(before):
            what = "the chat template rewrites the prompt once the answer is there, so the answer has no beginning"
            raise UserError(Problem(name, what, "use a template that only appends, or plain text prompts"))
        start, both = self._ids(before), self._ids(whole)
        # Where a token would span the boundary, a generator could not have sampled it: encode the answer by itself.
        ids = both[len(start) :] if both[: len(start)] == start else self._ids(whole[len(before) :])
        end = cast(int, self.tokenizer.eos_token_id)
        if end not in ids:
            return [*ids, end]
        return ids[: len(ids) - ids[::-1].index(end)]

    def _prompt_text(self, name: str, prompt: Text) -> str:
        return prompt if isinstance(prompt, str) else self._render(name, prompt, add_generation_prompt=True)

    def _whole_text(self, name: str, prompt: list[Message], completion: Text) -> str:
        turns: list[Message] = (
            [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
        )
        return self._render(name, [*prompt, *turns], add_generation_prompt=False)

    def _render(self, name: str, messages: list[Message], **options: Any) -> str:
        if self.tokenizer.chat_template is None:
            mend = "use a chat model, or chat = false in [source] for plain text"
            raise UserError(Problem(name, "chat messages, but this model's tokenizer has no chat template", mend))
        return cast(str, self.tokenizer.apply_chat_template(cast(Any, messages), tokenize=False, **options))

    def _ids(self, text: str) -> list[int]:
        return cast("list[int]", self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _opening(self) -> list[int]:
        begin = self.tokenizer.bos_token_id
        first = cast("list[int]", self.tokenizer("a")["input_ids"])[:1]
        return [begin] if first == [begin] else []


def compared(batch: Batch) -> list[list[tuple[int, int]]]:
    """For each group, which two of its completions are held to differ, as their places among them.

    The two of a pair; any two of a ranking; of labelled ones, those of different labels that answer the same prompt.
    """
    groups = batch[GROUP].tolist()
    members: list[list[int]] = [[] for _ in batch[IDS]]
    place: list[int] = []
    for at, group in enumerate(groups):
        place.append(len(members[group]))
        members[group].append(at)
    pairs = list[tuple[int, int]]()
    if CHOSEN in batch:
        pairs += zip(batch[CHOSEN].tolist(), batch[REJECTED].tolist(), strict=True)
    if RANK in batch:
        pairs += [two for some in members for two in combinations(some, 2)]
    if LABEL in batch:
        label = batch[LABEL].tolist()
        strange = batch[MISMATCHED].tolist() if MISMATCHED in batch else [0] * len(label)
        own = [[at for at in some if not strange[at]] for some in members]
        pairs += [(a, b) for some in own for a, b in combinations(some, 2) if label[a] != label[b]]
    found: list[list[tuple[int, int]]] = [[] for _ in members]
    for a, b in pairs:
        found[groups[a]].append((place[a], place[b]))
    return found


def _told_apart(batch: Batch, tokens: list[list[int]]) -> Batch:
    """The batch without pairs whose two completions are the same tokens; tokens: of each completion."""
    both = zip(batch[CHOSEN].tolist(), batch[REJECTED].tolist(), strict=True)
    return take_along(batch, "pair", torch.tensor([tokens[one] != tokens[other] for one, other in both]))


def with_tokens(batch: Batch, prompts: list[list[int]], tokens: list[list[int]]) -> Batch:
    """The batch with the tokens of its prompts, one list per group, and of its completions, one list per seq."""
    prompt_tokens, prompt_group = _flat(prompts)
    flat, seq = _flat(tokens)
    return batch.put_all({PROMPT_TOKENS: prompt_tokens, PROMPT_GROUP: prompt_group, TOKENS: flat, SEQ: seq})


def _flat(parts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """All tokens end to end, and which part each came from."""
    flat = torch.tensor([token for part in parts for token in part], dtype=torch.int64)
    return flat, owners([len(part) for part in parts])
