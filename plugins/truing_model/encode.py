"""Text to tokens, the boundary between prompt and completion exact.

The chat template is applied once, to prompt and completion together, and its own text decides where the completion
begins; special tokens come from the template alone, so none is doubled. A completion ends with the end token: what a
template writes after it (a newline, often) is never generated, so it is not learned.

Of a completion of several turns the assistant's are its tokens. What others say in between is heard: context of what
follows, and not learned either.

Completions that are held to differ, the two of a pair, those of a ranking, a desirable and an undesirable one, may have
become the same tokens: cut at the same place, or a template trimmed what set them apart. There is nothing to learn from
such a pair, so it is left out and counted; a group of which no other is left, or that is ranked or labelled as a whole,
is dropped by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple, cast

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
from truing_tensor.turns import heard_fields


class Spoken(NamedTuple):
    """A completion: its own tokens, and what was heard, each part with how many of them stand before it."""

    tokens: list[int]
    heard: list[tuple[int, list[int]]]

    @property
    def length(self) -> int:
        """All tokens of it."""
        return len(self.tokens) + sum(len(part) for _, part in self.heard)

    def cut(self, room: int) -> Spoken:
        """What there is room for."""
        if self.length <= room:
            return self
        before = [at + sum(len(part) for place, part in self.heard if place <= at) for at in range(len(self.tokens))]
        kept = sum(place < room for place in before)
        return Spoken(self.tokens[:kept], [(at, part) for at, part in self.heard if at < kept])


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
        said: list[Spoken] = []
        truncated, alike, as_a_whole = 0, 0, RANK in batch or LABEL in batch
        for at, (name, prompt, texts) in enumerate(zip(batch[IDS], batch[PROMPTS], completions, strict=True)):
            start, ends = self.group(name, prompt, texts)
            room = self.max_tokens - len(start)
            cut = [end.cut(room) for end in ends]
            same = [two for two in held_apart[at] if cut[two[0]] == cut[two[1]]]
            none = bool(same) and (as_a_whole or len(same) == len(held_apart[at]))
            if why := self._too_long(len(start), ends) or _silent(ends) or (none and self._alike(same[0], cut, ends)):
                dropped.append((name, why))
                continue
            alike += len(same)
            kept.append(at)
            prompts.append(start)
            truncated += sum(end.length > room for end in ends)
            said.extend(cut)
        encoded = with_tokens(take(batch, kept), prompts, [each.tokens for each in said])
        if any(each.heard for each in said):
            encoded = encoded.put_all(heard_fields((len(each.tokens), each.heard) for each in said))
        return Encoded(_told_apart(encoded, said) if alike else encoded, dropped, truncated, alike)

    def group(self, name: str, prompt: Text, completions: list[Text]) -> tuple[list[int], list[Spoken]]:
        """The tokens of one prompt and of each of its completions."""
        before = self._prompt_text(name, prompt)
        start = self._ids(before)
        if isinstance(prompt, str):
            # A tokenizer that opens every text with its begin token does so here; a template writes its own.
            start = self._opening() + start
        if not start:
            raise UserError(Problem(name, "an empty prompt, and this tokenizer has no begin token to start from"))
        return start, [self._completion(name, prompt, text) for text in completions]

    def _too_long(self, prompt: int, ends: list[Spoken]) -> str:
        length = max((end.length for end in ends), default=1)
        if prompt < self.max_tokens and (self.truncate or prompt + length <= self.max_tokens):
            return ""
        return f"{prompt + length} tokens, {prompt} of them prompt; max_tokens is {self.max_tokens}"

    def _alike(self, two: tuple[int, int], cut: list[Spoken], ends: list[Spoken]) -> str:
        what = f"completions {two[0] + 1} and {two[1] + 1} are to differ, and are the same {cut[two[0]].length} tokens"
        shortened = any(ends[at].length > cut[at].length for at in two)
        return f"{what} once cut; max_tokens is {self.max_tokens}" if shortened else what

    def _completion(self, name: str, prompt: Text, completion: Text) -> Spoken:
        turns: list[Message] = (
            [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
        )
        own = [at for at, turn in enumerate(turns) if turn["role"] == "assistant"]
        tokens, heard = list[int](), list[tuple[int, list[int]]]()
        before, behind = self._prompt_text(name, prompt), list[int]()
        for at in own:
            start, end = self._around(name, prompt, turns, at)
            if not (start.startswith(before) and end.startswith(start)):
                what = "the chat template rewrites the prompt once the answer is there, so the answer has no beginning"
                raise UserError(Problem(name, what, "use a template that only appends, or plain text prompts"))
            if between := [*behind, *self._ids(start[len(before) :])]:
                heard.append((len(tokens), between))
            # In plain text an end token would end the completion itself.
            said, behind = self._turn(start, end, closed=at == own[-1] or not isinstance(prompt, str))
            tokens += said
            before = end
        return Spoken(tokens, heard)

    def _turn(self, before: str, whole: str, closed: bool) -> tuple[list[int], list[int]]:
        """The tokens of a turn, and those that a template writes behind its end token."""
        start, both = self._ids(before), self._ids(whole)
        # Where a token would span the boundary, a generator could not have sampled it: encode the answer by itself.
        ids = both[len(start) :] if both[: len(start)] == start else self._ids(whole[len(before) :])
        end = cast(int, self.tokenizer.eos_token_id)
        if end not in ids:
            return ([*ids, end] if closed else ids), []
        size = len(ids) - ids[::-1].index(end)
        return ids[:size], ids[size:]

    def _around(self, name: str, prompt: Text, turns: list[Message], at: int) -> tuple[str, str]:
        """The text up to a turn, and up to its end."""
        if isinstance(prompt, str):
            start = prompt + "".join(turn["content"] for turn in turns[:at])
            return start, start + turns[at]["content"]
        start = self._render(name, [*prompt, *turns[:at]], add_generation_prompt=True)
        return start, self._render(name, [*prompt, *turns[: at + 1]], add_generation_prompt=False)

    def _prompt_text(self, name: str, prompt: Text) -> str:
        return prompt if isinstance(prompt, str) else self._render(name, prompt, add_generation_prompt=True)

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


def _silent(ends: list[Spoken]) -> str:
    silent = next((at for at, end in enumerate(ends, 1) if not end.tokens), 0)
    return f"in completion {silent} the assistant says nothing" if silent else ""


def _told_apart(batch: Batch, said: list[Spoken]) -> Batch:
    """The batch without pairs whose two completions are the same; said: each completion."""
    both = zip(batch[CHOSEN].tolist(), batch[REJECTED].tolist(), strict=True)
    return take_along(batch, "pair", torch.tensor([said[one] != said[other] for one, other in both]))


def with_tokens(batch: Batch, prompts: list[list[int]], tokens: list[list[int]]) -> Batch:
    """The batch with the tokens of its prompts, one list per group, and of its completions, one list per seq."""
    prompt_tokens, prompt_group = _flat(prompts)
    flat, seq = _flat(tokens)
    return batch.put_all({PROMPT_TOKENS: prompt_tokens, PROMPT_GROUP: prompt_group, TOKENS: flat, SEQ: seq})


def _flat(parts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """All tokens end to end, and which part each came from."""
    flat = torch.tensor([token for part in parts for token in part], dtype=torch.int64)
    return flat, owners([len(part) for part in parts])
