"""One row to groups: finds the columns, checks what they hold, lays prompts and completions out as messages.

Pure functions without any reading, so that every mistake a row can have is told in one place, and tested there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import msgspec

from truing.errors import did_you_mean
from truing.fields import LABEL, MARGIN, METADATA, RANK, SOFT, Field, Group, Message, Text
from truing_data.forms import all_pairs, labelled
from truing_data.mapping import MappedSource

Row = Mapping[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Who may speak in a conversation."""

_MESSAGE = 'a message is {"role": ..., "content": ...}'


class BadRow(Exception):
    """A row that no group can be made of: what is wrong, and the mend if one is known."""

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend


class Layout(Protocol):
    """The options that say what becomes of plain text."""

    @property
    def chat(self) -> bool: ...
    @property
    def system(self) -> str | None: ...


def groups_of(row: Row, name: str, options: MappedSource) -> list[Group]:
    """The groups of one row: one, or with `turns = "all"` one per assistant turn.

    name: the id of the row when no column has one. Raises BadRow.
    """
    name = identity(row, name, options.id)
    if options.completions is not None:
        group = _ranking(row, name, options)
        return [all_pairs(group) if options.rankings_to_pairs else group]
    if options.pairs:
        group = _pair(row, name, options)
        return [labelled(group) if options.pairs_to_labels else group]
    found = _turns(row, name, options) if options.messages is not None else [_demonstration(row, name, options)]
    if options.label is None:
        return found
    label = _label(row, options.label)
    return [msgspec.structs.replace(group, extra={LABEL: [label]}) for group in found]


def laid_out(prompt: Text, completions: Sequence[Text], layout: Layout) -> tuple[Text, list[Text]]:
    """Prompt and completions in one form: all plain text, or all messages with the system message in front.

    Raises BadRow for plain text where messages were asked for.
    """
    if isinstance(prompt, str) and not layout.chat:
        if layout.system is not None:
            raise BadRow("a plain-text prompt takes no system message", "use chat = true, or leave `system` out")
        if not all(isinstance(completion, str) for completion in completions):
            raise BadRow("the prompt is plain text and the completion is a message", "use chat = true")
        return prompt, list(completions)
    turns: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if layout.system is not None and turns[0]["role"] not in ("system", "developer"):
        turns = [{"role": "system", "content": layout.system}, *turns]
    return turns, as_messages(completions)


def as_messages(completions: Sequence[Text]) -> list[Text]:
    """Completions as turns of the assistant, those that are messages already as they are."""
    return [[{"role": "assistant", "content": it}] if isinstance(it, str) else it for it in completions]


def _demonstration(row: Row, name: str, options: MappedSource) -> Group:
    prompt = _prompt(row, options.prompt or "prompt")
    completion = _completion(row, options.completion or "completion")
    prompt, completions = laid_out(prompt, [completion], options)
    return Group(id=name, prompt=prompt, completions=completions)


def _turns(row: Row, name: str, options: MappedSource) -> list[Group]:
    column = options.messages or ""
    messages = _messages(value_of(row, column), f'"{column}"')
    ends = [at for at, message in enumerate(messages) if message["role"] == "assistant" and at > 0]
    if not ends:
        raise BadRow(f'"{column}" has no assistant turn that answers anything')
    groups: list[Group] = []
    for number, end in enumerate(ends if options.turns == "all" else ends[-1:], 1):
        prompt, completion = _cut(messages, end, column)
        laid, completions = laid_out(prompt, [completion], options)
        suffix = f"#{number}" if options.turns == "all" else ""
        groups.append(Group(id=name + suffix, prompt=laid, completions=completions))
    return groups


def _pair(row: Row, name: str, options: MappedSource) -> Group:
    columns = (options.chosen or "", options.rejected or "")
    whole = [_is_conversation(value_of(row, column)) for column in columns]
    if any(whole):
        prompt, better, worse = _conversations(row, columns, whole, options)
    else:
        prompt = _prompt(row, options.prompt or "prompt")
        better, worse = (_completion(row, column) for column in columns)
    prompt, completions = laid_out(prompt, [better, worse], options)
    if completions[0] == completions[1]:
        raise BadRow(f'"{columns[0]}" and "{columns[1]}" are equal', "a pair needs a difference")
    extra: dict[Field[Any], list[Any]] = {
        kind: [_annotation(row, column, kind)] for kind, column in options.pair_columns.items()
    }
    return Group(id=name, prompt=prompt, completions=completions, pairs=[(0, 1)], extra=extra)


def _ranking(row: Row, name: str, options: MappedSource) -> Group:
    """Completions and their places among each other, the best 0."""
    column = options.completions or ""
    texts = list_of(row, column)
    if len(texts) < 2:
        raise BadRow(f'"{column}" has {len(texts)} of them', "a ranking needs two or more")
    said = [_said(text, f'"{column}", completion {at}') for at, text in enumerate(texts, 1)]
    prompt, completions = laid_out(_prompt(row, options.prompt or "prompt"), said, options)
    for at, text in enumerate(completions):
        if (first := completions.index(text)) < at:
            raise BadRow(f'"{column}": completions {first + 1} and {at + 1} are equal', "a ranking needs a difference")
    by = options.rank or options.score or ""
    places = [number_of(value, f'"{by}", entry {at}') for at, value in enumerate(list_of(row, by), 1)]
    if len(places) != len(texts):
        raise BadRow(f'"{by}" has {len(places)} entries for {len(texts)} completions')
    order = sorted(set(places), reverse=options.score is not None)
    if len(order) == 1:
        raise BadRow(f'"{by}" is the same for all completions', "a ranking needs a difference")
    return Group(id=name, prompt=prompt, completions=completions, extra={RANK: [order.index(it) for it in places]})


def _conversations(
    row: Row, columns: tuple[str, str], whole: Sequence[bool], options: MappedSource
) -> tuple[list[Message], Text, Text]:
    """The prompt that two whole conversations share, and the last assistant turn of each."""
    if not all(whole):
        one, other = columns if whole[0] else reversed(columns)
        raise BadRow(f'"{one}" holds a whole conversation and "{other}" does not')
    if options.prompt is not None:
        raise BadRow(f'"{columns[0]}" holds its prompt already', "leave `prompt` out of the options")
    found: list[tuple[list[Message], list[Message]]] = []
    for column in columns:
        messages = _messages(row[column], f'"{column}"')
        ends = [at for at, message in enumerate(messages) if message["role"] == "assistant" and at > 0]
        if not ends:
            raise BadRow(f'"{column}" has no assistant turn that answers anything')
        found.append(_cut(messages, ends[-1], column))
    (prompt, better), (other, worse) = found
    if prompt != other:
        raise BadRow(f'"{columns[0]}" and "{columns[1]}" do not share their prompt')
    return prompt, better, worse


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and len(cast("list[Any]", value)) > 1


def _cut(messages: list[Message], end: int, column: str) -> tuple[list[Message], list[Message]]:
    """What comes before the turn at `end`, and that turn."""
    if messages[end - 1]["role"] == "assistant":
        raise BadRow(f'"{column}", message {end + 1}: the assistant speaks twice in a row')
    if not messages[end]["content"].strip():
        raise BadRow(f'"{column}", message {end + 1}: the assistant says nothing')
    return messages[:end], [messages[end]]


def _prompt(row: Row, column: str) -> Text:
    value = value_of(row, column)
    if isinstance(value, list):
        messages = _messages(value, f'"{column}"')
        if messages[-1]["role"] == "assistant":
            mend = "a prompt ends before the assistant answers; `messages` takes whole conversations"
            raise BadRow(f'"{column}" ends with an assistant message', mend)
        return messages
    return text_of(value, f'"{column}"')


def _completion(row: Row, column: str) -> Text:
    return _said(value_of(row, column), f'"{column}"')


def _said(value: Any, place: str) -> Text:
    """A completion: text, or one assistant message."""
    if not isinstance(value, list):
        return text_of(value, place)
    messages = _messages(value, place)
    if len(messages) > 1 or messages[0]["role"] != "assistant":
        said = f"{len(messages)} messages" if len(messages) > 1 else f'a message of the role "{messages[0]["role"]}"'
        mend = "a completion is one assistant message; `messages` takes whole conversations"
        raise BadRow(f"{place} is {said}", mend)
    text_of(messages[0]["content"], place)
    return messages


def text_of(value: Any, place: str) -> str:
    """Text that is not blank. Raises BadRow."""
    if not isinstance(value, str):
        raise BadRow(f"{place} is {_kind(value)}, not text or a list of messages")
    if not value.strip():
        raise BadRow(f"{place} is empty")
    return value


def _messages(value: Any, place: str) -> list[Message]:
    if not isinstance(value, list):
        raise BadRow(f"{place} is {_kind(value)}, not a list of messages", _MESSAGE)
    if not value:
        raise BadRow(f"{place} is empty")
    return [_message(entry, f"{place}, message {at}") for at, entry in enumerate(cast("list[Any]", value), 1)]


def _message(entry: Any, place: str) -> Message:
    if not isinstance(entry, dict):
        raise BadRow(f"{place} is {_kind(entry)}", _MESSAGE)
    # Parquet gives every message every key that some message has, so an absent one is there and null.
    given = {str(key): value for key, value in cast("dict[Any, Any]", entry).items() if value is not None}
    for key in ("role", "content"):
        if not isinstance(given.get(key), str):
            raise BadRow(f'{place} has no "{key}" that is text', _MESSAGE)
    if given["role"] not in ROLES:
        raise BadRow(f'{place} has the unknown role "{given["role"]}"', did_you_mean(given["role"], ROLES))
    if unknown := sorted(given.keys() - {"role", "content", "name"}):
        raise BadRow(f'{place} has "{unknown[0]}", which would be lost', _MESSAGE)
    if not isinstance(given.get("name", ""), str):
        raise BadRow(f'{place} has a "name" that is {_kind(given["name"])}, not text')
    return cast(Message, given)


def _annotation(row: Row, column: str, kind: Field[Any]) -> float | str:
    """What a column says about the pair itself: a number or a name."""
    value = value_of(row, column)
    if kind not in (MARGIN, SOFT):
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise BadRow(f'"{column}" is {_kind(value)}, not a name')
        return str(value)
    number = number_of(value, f'"{column}"')
    if kind is SOFT and not 0 <= number <= 1:
        raise BadRow(f'"{column}" is {value}, not a probability', "expected a number from 0 to 1")
    return number


def _label(row: Row, column: str) -> int:
    """1 for a desirable completion, 0 for an undesirable one."""
    value = value_of(row, column)
    if value not in (0, 1) or not isinstance(value, int | float):
        said = value if isinstance(value, int | float) else _kind(value)
        raise BadRow(f'"{column}" is {said}, not a label', "expected true or 1 for desirable, false or 0 for not")
    return int(value)


def list_of(row: Row, column: str) -> list[Any]:
    """The list in a column. Raises BadRow."""
    value = value_of(row, column)
    if not isinstance(value, list):
        raise BadRow(f'"{column}" is {_kind(value)}, not a list')
    return cast("list[Any]", value)


def number_of(value: Any, place: str) -> float:
    """A finite number. Raises BadRow."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRow(f"{place} is {_kind(value)}, not a finite number")
    return float(value)


def identity(row: Row, name: str, column: str | None) -> str:
    """The name of a row: what the column says, or `name` without one. Raises BadRow."""
    if column is None:
        return name
    value = value_of(row, column)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRow(f'"{column}" is {_kind(value)}, not a name')
    return str(value)


def described(groups: Sequence[Group], row: Row, columns: Sequence[str]) -> list[Group]:
    """Groups with what some columns of their row hold as METADATA. Raises BadRow when there is no such column."""
    if lacking := [column for column in columns if column not in row]:
        raise BadRow(f'no column "{lacking[0]}"', did_you_mean(lacking[0], row))
    metadata = {column: row[column] for column in columns}
    return [msgspec.structs.replace(group, extra={**group.extra, METADATA: [metadata]}) for group in groups]


def value_of(row: Row, column: str) -> Any:
    """What a column holds, null excepted. Raises BadRow."""
    if column not in row:
        raise BadRow(f'no column "{column}"', did_you_mean(column, row))
    if row[column] is None:
        raise BadRow(f'"{column}" is null')
    return row[column]


def _kind(value: Any) -> str:
    """What a value is, as a reader of the file sees it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return f"the number {value}"
    kinds = {type(None): "null", str: "text", list: "a list", dict: "an object", int: "a number", float: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")
