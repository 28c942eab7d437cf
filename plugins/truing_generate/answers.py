"""What a server's answer holds, read strictly: what is missing or cannot be is an error, never a guess."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from truing_generate.completions import Finish, fault
from truing_remote.protocol import Malformed, read


class Written(NamedTuple):
    """A completion as a server wrote it. ended_by: the stop string, "" where something else ended it."""

    text: str
    tokens: list[int]
    logprobs: list[float]
    finish: Finish
    ended_by: str


class _Logprobs(msgspec.Struct):
    token_logprobs: list[float | None] | None = None


class _Turn(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    """stop_reason is vLLM's name for what ended it, matched_stop is SGLang's: a stop string, or an end token."""

    text: str | None = None
    message: _Turn | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    matched_stop: str | int | UnsetType | None = UNSET
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]


def exact(answer: Any, prompt: list[int], most: int, logprobs: bool, stops: bool) -> Written:
    """A completion by its token ids. most: the most tokens it may have. Raises Malformed."""
    choice = _choice(answer)
    tokens = choice.token_ids
    if tokens is None:
        mend = 'use vLLM, or SGLang of July 2026 or later; or set tokens = "text", which gives no log-probabilities'
        raise Malformed("the server returns no token ids", mend)
    if choice.prompt_token_ids is not None and choice.prompt_token_ids != prompt:
        what = f"the server read {len(choice.prompt_token_ids)} tokens, and not the {len(prompt)} of the prompt"
        raise Malformed(what, "turn off what shortens or rewrites prompts there")
    values = choice.logprobs.token_logprobs if choice.logprobs else None
    if logprobs and values is None:
        raise Malformed("the server returns no log-probabilities", 'set logprobs = "none" if nothing needs them')
    if wrong := fault(tokens, values if logprobs else None, most):
        raise Malformed(f"the server returns {wrong}")
    finish, ended_by = _finish(choice, stops)
    return Written(_text(choice), tokens, [value for value in values or () if value is not None], finish, ended_by)


def text(answer: Any, stops: bool) -> Written:
    """A completion by its text alone. Raises Malformed."""
    choice = _choice(answer)
    finish, ended_by = _finish(choice, stops)
    return Written(_text(choice), [], [], finish, ended_by)


def _choice(answer: Any) -> _Choice:
    choices = read(answer, _Answer).choices
    if len(choices) != 1:
        raise Malformed(f"the server returns {len(choices)} completions where one was asked for")
    return choices[0]


def _text(choice: _Choice) -> str:
    found = choice.message.content if choice.message else choice.text
    if found is None:
        raise Malformed("the server returns no text")
    return found


def _finish(choice: _Choice, stops: bool) -> tuple[Finish, str]:
    """Why a completion ended. stops: whether there was a stop string it could have ended with."""
    if choice.finish_reason == "length":
        return "length", ""
    if choice.finish_reason != "stop":
        raise Malformed(f"the server ended a completion for the reason {choice.finish_reason!r}")
    reason = choice.matched_stop if choice.stop_reason is UNSET else choice.stop_reason
    if isinstance(reason, str):
        return "stop", reason
    if reason is UNSET and stops:
        what = "the server does not say whether a stop string or the end token ended a completion"
        raise Malformed(what, "leave stop out, or use vLLM or SGLang")
    return "end", ""
