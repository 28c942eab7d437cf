"""Sources of rows: what a row becomes, in which order groups come, and what is said of rows that are no use."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import (
    ANNOTATOR,
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    LABEL,
    MARGIN,
    MISMATCHED,
    PROMPTS,
    RANK,
    REJECTED,
    SOFT,
    STRATUM,
    Batch,
    Group,
    fields,
)
from truing.registry import Registry
from truing.run import Run
from truing.stage import DataInfo
from truing.testing import recipe
from truing_data.forms import resampled
from truing_data.held import Held, Loaded, Row, selected
from truing_data.mapping import MappedSource
from truing_data.plugin import HuggingFace, Jsonl, Parquet, truing_specs
from truing_data.rows import BadRow, groups_of

QUICK = settings(deadline=None, max_examples=60, database=None)
HH = Path(__file__).parents[3] / "shared/data/hh_rlhf_train.jsonl"
HELLO = {"prompt": "Hello?", "completion": "Hi."}
PAIR = {"prompt": "Hello?", "better": "Hi.", "worse": "What?"}
PAIRS = MappedSource(chosen="better", rejected="worse")
RANKED = {
    "prompt": "Hello?",
    "answers": ["What?", "Hi.", "Go.", "Hey."],
    "place": [3, 1, 7, 3],
    "points": [0.5, 9, -1, 0.5],
}


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def run(seed: int = 0) -> Run:
    return Run("test", Path(), seed, Bus())


def read(spec: Any, size: int = 4, epoch: int = 0, seed: int = 0) -> tuple[DataInfo, list[Batch]]:
    async def whole() -> tuple[DataInfo, list[Batch]]:
        source = spec.build(run(seed))
        info = await source.open()
        return info, [batch async for batch in source.batches(size, epoch)]

    return anyio.run(whole)


def ids(batches: list[Batch]) -> list[str]:
    return [name for batch in batches for name in batch[IDS]]


def refused(spec: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(spec)
    return [str(problem) for problem in caught.value.problems]


def faults(spec: MappedSource) -> list[str]:
    return [f"{fault.option}: {fault.what}" + (f" | {fault.mend}" if fault.mend else "") for fault in spec.problems()]


def write(path: Path, *rows: Mapping[str, Any] | str | bytes) -> str:
    lines = [row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else _json(row) for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


def _json(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode()


def numbered(path: Path, count: int) -> str:
    return write(path, *({"prompt": f"p{at}", "completion": f"c{at}"} for at in range(count)))


# What a row becomes


def test_plain_text_becomes_a_user_and_an_assistant_message() -> None:
    (group,) = groups_of(HELLO, "a:1", MappedSource())
    assert group == Group(id="a:1", prompt=[user("Hello?")], completions=[[assistant("Hi.")]])


def test_plain_text_stays_plain_text_when_chat_is_false() -> None:
    (group,) = groups_of(HELLO, "a:1", MappedSource(chat=False))
    assert (group.prompt, group.completions) == ("Hello?", ["Hi."])


def test_a_prompt_of_messages_stays_a_list_of_messages() -> None:
    turns = [user("Hi"), assistant("Hello"), user("Well?")]
    for chat in (True, False):
        (group,) = groups_of({"prompt": turns, "completion": "Fine."}, "a:1", MappedSource(chat=chat))
        assert (group.prompt, group.completions) == (turns, [[assistant("Fine.")]])


def test_a_completion_may_be_one_assistant_message() -> None:
    (group,) = groups_of({"prompt": "Hello?", "completion": [assistant("Hi.")]}, "a:1", MappedSource())
    assert group.completions == [[assistant("Hi.")]]


def test_a_system_message_goes_before_prompts_that_have_none() -> None:
    options = MappedSource(system="Be brief.")
    own = [{"role": "system", "content": "Be long."}, user("Hello?")]
    (given,) = groups_of(HELLO, "a:1", options)
    (kept,) = groups_of({"prompt": own, "completion": "Hi."}, "a:2", options)
    assert given.prompt == [{"role": "system", "content": "Be brief."}, user("Hello?")]
    assert kept.prompt == own


def test_the_last_assistant_turn_of_a_conversation_is_the_completion() -> None:
    turns = [user("1"), assistant("2"), user("3"), assistant("4"), user("thanks")]
    (group,) = groups_of({"talk": turns}, "a:1", MappedSource(messages="talk"))
    assert group == Group(id="a:1", prompt=turns[:3], completions=[[assistant("4")]])


def test_every_assistant_turn_is_a_group_when_all_turns_are_asked_for() -> None:
    turns = [assistant("welcome"), user("1"), assistant("2"), user("3"), assistant("4")]
    found = groups_of({"talk": turns}, "a:1", MappedSource(messages="talk", turns="all"))
    assert [(group.id, group.prompt, group.completions) for group in found] == [
        ("a:1#1", turns[:2], [[assistant("2")]]),
        ("a:1#2", turns[:4], [[assistant("4")]]),
    ]


def test_whole_conversations_share_the_prompt_before_their_last_turn() -> None:
    row = {"better": [user("Hello?"), assistant("Hi.")], "worse": [user("Hello?"), assistant("What?")]}
    (group,) = groups_of({**row, "prompt": "Hello?"}, "a:1", PAIRS)
    assert group.prompt == [user("Hello?")]
    assert group.completions == [[assistant("Hi.")], [assistant("What?")]]
    assert group.pairs == [(0, 1)]


def test_a_pair_carries_margin_soft_annotator_and_stratum() -> None:
    options = MappedSource(
        chosen="better", rejected="worse", margin="m", soft="s", annotator="who", stratum="where", id="key"
    )
    (group,) = groups_of({**PAIR, "m": 2, "s": 0.75, "who": 17, "where": "north", "key": 5}, "a:1", options)
    assert group.id == "5"
    assert group.extra == {MARGIN: [2.0], SOFT: [0.75], ANNOTATOR: ["17"], STRATUM: ["north"]}


@pytest.mark.parametrize(("value", "label"), [(True, 1), (1, 1), (1.0, 1), (False, 0), (0, 0)])
def test_a_label_says_whether_its_completion_is_desirable(value: Any, label: int) -> None:
    (group,) = groups_of({**HELLO, "good": value}, "a:1", MappedSource(label="good"))
    assert (group.completions, group.extra) == ([[assistant("Hi.")]], {LABEL: [label]})


def test_the_last_turn_of_a_conversation_may_be_labelled() -> None:
    row = {"talk": [user("1"), assistant("2")], "good": False}
    (group,) = groups_of(row, "a:1", MappedSource(messages="talk", label="good"))
    assert group.extra == {LABEL: [0]}


def test_a_pair_becomes_two_labelled_completions_of_one_group_when_asked() -> None:
    options = MappedSource(chosen="better", rejected="worse", pairs_to_labels=True)
    (group,) = groups_of(PAIR, "a:1", options)
    assert group.completions == [[assistant("Hi.")], [assistant("What?")]]
    assert (group.pairs, group.extra) == ([], {LABEL: [1, 0]})


@pytest.mark.parametrize("order", [{"rank": "place"}, {"score": "points"}])
def test_a_ranking_has_its_best_at_0_and_keeps_ties(order: dict[str, str]) -> None:
    (group,) = groups_of(RANKED, "a:1", MappedSource(completions="answers", **order))
    assert group.completions == [[assistant(text)] for text in RANKED["answers"]]
    assert (group.pairs, group.extra) == ([], {RANK: [1, 0, 2, 1]})


def test_a_ranking_becomes_all_pairs_of_unequal_rank_in_one_group_when_asked() -> None:
    options = MappedSource(completions="answers", rank="place", rankings_to_pairs=True)
    (group,) = groups_of(RANKED, "a:1", options)
    assert group.pairs == [(1, 0), (0, 2), (1, 2), (1, 3), (3, 2)]  # C(4, 2) = 6, less the tie
    assert (len(group.completions), group.extra) == (4, {})


@QUICK
@given(st.lists(st.integers(0, 4), min_size=2, max_size=7).filter(lambda places: len(set(places)) > 1))
def test_every_two_completions_of_unequal_rank_meet_once(places: list[int]) -> None:
    row = {"prompt": "p", "answers": [f"c{at}" for at in range(len(places))], "place": places}
    options = MappedSource(completions="answers", rank="place", rankings_to_pairs=True)
    (group,) = groups_of(row, "a:1", options)
    found = {frozenset(pair) for pair in group.pairs}
    unequal = {frozenset((a, b)) for a in range(len(places)) for b in range(a) if places[a] != places[b]}
    assert found == unequal
    assert len(found) == len(group.pairs)
    assert all(places[better] < places[worse] for better, worse in group.pairs)


def test_a_null_that_parquet_fills_in_is_no_key_of_a_message() -> None:
    turns = [{"role": "user", "content": "Hi", "name": None, "tool_calls": None}]
    (group,) = groups_of({"prompt": turns, "completion": "Hello"}, "a:1", MappedSource())
    assert group.prompt == [user("Hi")]


texts = st.text(min_size=1, max_size=20).filter(lambda text: bool(text.strip()))
conversations = st.lists(st.tuples(texts, texts), min_size=1, max_size=4).map(
    lambda turns: [message for asked, said in turns for message in (user(asked), assistant(said))]
)


@QUICK
@given(conversations)
def test_every_turn_of_a_conversation_follows_from_its_prompt(turns: list[dict[str, str]]) -> None:
    found = groups_of({"messages": turns}, "a:1", MappedSource(messages="messages", turns="all"))
    (last,) = groups_of({"messages": turns}, "a:1", MappedSource(messages="messages"))
    assert len(found) == len(turns) // 2
    for group in found:
        whole = [*group.prompt, *group.completions[0]]
        assert whole == turns[: len(whole)]
    assert (last.prompt, last.completions) == (found[-1].prompt, found[-1].completions)


@QUICK
@given(texts, texts, texts, st.booleans())
def test_text_columns_arrive_unchanged(prompt: str, better: str, worse: str, chat: bool) -> None:
    options = MappedSource(chosen="better", rejected="worse", chat=chat)
    row = {"prompt": prompt, "better": better, "worse": worse}
    if better == worse:
        with pytest.raises(BadRow, match="are equal"):
            groups_of(row, "a:1", options)
        return
    (group,) = groups_of(row, "a:1", options)
    plain = [group.prompt, *group.completions] if not chat else [turns[-1]["content"] for turns in _all(group)]
    assert plain == [prompt, better, worse]


def _all(group: Group) -> list[Any]:
    return [group.prompt, *group.completions]


# What is said of a row that is no use


@pytest.mark.parametrize(
    ("row", "options", "what", "mend"),
    [
        ({"promt": "x", "completion": "y"}, {}, 'no column "prompt"', 'did you mean "promt"?'),
        ({**HELLO, "prompt": None}, {}, '"prompt" is null', ""),
        ({**HELLO, "prompt": 3}, {}, '"prompt" is a number, not text or a list of messages', ""),
        ({**HELLO, "prompt": {}}, {}, '"prompt" is an object, not text or a list of messages', ""),
        ({**HELLO, "prompt": " "}, {}, '"prompt" is empty', ""),
        ({**HELLO, "prompt": []}, {}, '"prompt" is empty', ""),
        ({**HELLO, "completion": ""}, {}, '"completion" is empty', ""),
        ({**HELLO, "completion": True}, {}, '"completion" is true, not text', ""),
        ({**HELLO, "completion": [assistant(" ")]}, {}, '"completion" is empty', ""),
        ({**HELLO, "completion": [user("x")]}, {}, 'a message of the role "user"', "one assistant message"),
        ({**HELLO, "completion": [user("x"), assistant("y")]}, {}, '"completion" is 2 messages', "`messages` takes"),
        ({**HELLO, "completion": [assistant("x")]}, {"chat": False}, "the prompt is plain text", "use chat = true"),
        (HELLO, {"chat": False, "system": "x"}, "a plain-text prompt takes no system message", "chat = true"),
        ({**HELLO, "prompt": ["x"]}, {}, '"prompt", message 1 is text', '{"role": ..., "content": ...}'),
        ({**HELLO, "prompt": [{"role": "user"}]}, {}, 'message 1 has no "content" that is text', '"content"'),
        ({**HELLO, "prompt": [{"from": "human", "value": "x"}]}, {}, 'has no "role" that is text', '"role"'),
        ({**HELLO, "prompt": [{"role": "usr", "content": "x"}]}, {}, 'unknown role "usr"', 'did you mean "user"?'),
        ({**HELLO, "prompt": [{**user("x"), "tool_calls": []}]}, {}, 'has "tool_calls", which would be lost', ""),
        ({**HELLO, "prompt": [{**user("x"), "name": 3}]}, {}, '"name" that is a number', ""),
        ({**HELLO, "prompt": [user("x"), assistant("y")]}, {}, "ends with an assistant message", "`messages` takes"),
        ({**HELLO, "key": [1]}, {"id": "key"}, '"key" is a list, not a name', ""),
        ({"talk": "x"}, {"messages": "talk"}, '"talk" is text, not a list of messages', '"role"'),
        ({"talk": [user("x")]}, {"messages": "talk"}, "no assistant turn that answers anything", ""),
        ({"talk": [assistant("x")]}, {"messages": "talk"}, "no assistant turn that answers anything", ""),
        ({"talk": [user("x"), assistant("")]}, {"messages": "talk"}, "message 2: the assistant says nothing", ""),
        (
            {"talk": [user("x"), assistant("y"), assistant("z")]},
            {"messages": "talk"},
            "message 3: the assistant speaks twice in a row",
            "",
        ),
    ],
)
def test_a_demonstration_that_is_no_use_says_why(
    row: dict[str, Any], options: dict[str, Any], what: str, mend: str
) -> None:
    with pytest.raises(BadRow) as caught:
        groups_of(row, "a:1", MappedSource(**options))
    assert what in caught.value.what
    assert mend in caught.value.mend


@pytest.mark.parametrize(
    ("row", "options", "what"),
    [
        ({**PAIR, "worse": "Hi."}, {}, '"better" and "worse" are equal'),
        ({**PAIR, "worse": " "}, {}, '"worse" is empty'),
        ({**PAIR, "better": ""}, {}, '"better" is empty'),
        ({**PAIR, "better": None}, {}, '"better" is null'),
        ({"prompt": "x", "better": "y"}, {}, 'no column "worse"'),
        (
            {**PAIR, "better": [user("a"), assistant("b")]},
            {},
            '"better" holds a whole conversation and "worse" does not',
        ),
        (
            {**PAIR, "worse": [user("a"), assistant("b")]},
            {},
            '"worse" holds a whole conversation and "better" does not',
        ),
        (
            {"better": [user("a"), assistant("b")], "worse": [user("c"), assistant("d")]},
            {},
            '"better" and "worse" do not share their prompt',
        ),
        (
            {"prompt": "a", "better": [user("a"), assistant("b")], "worse": [user("a"), assistant("d")]},
            {"prompt": "prompt"},
            '"better" holds its prompt already',
        ),
        ({"better": [user("a"), user("b")], "worse": [user("a"), assistant("d")]}, {}, "no assistant turn"),
        ({**PAIR, "x": "much"}, {"margin": "x"}, '"x" is text, not a finite number'),
        ({**PAIR, "x": True}, {"margin": "x"}, '"x" is true, not a finite number'),
        ({**PAIR, "x": float("nan")}, {"margin": "x"}, '"x" is the number nan, not a finite number'),
        ({**PAIR, "x": 1.5}, {"soft": "x"}, '"x" is 1.5, not a probability'),
        ({**PAIR, "x": 0.5}, {"annotator": "x"}, '"x" is a number, not a name'),
    ],
)
def test_a_pair_that_is_no_use_says_why(row: dict[str, Any], options: dict[str, Any], what: str) -> None:
    with pytest.raises(BadRow) as caught:
        groups_of(row, "a:1", MappedSource(chosen="better", rejected="worse", **options))
    assert what in caught.value.what


LABELLED: dict[str, Any] = {"label": "good"}
BY_PLACE: dict[str, Any] = {"completions": "answers", "rank": "place"}


@pytest.mark.parametrize(
    ("row", "options", "what"),
    [
        (HELLO, LABELLED, 'no column "good"'),
        ({**HELLO, "good": None}, LABELLED, '"good" is null'),
        ({**HELLO, "good": 2}, LABELLED, '"good" is 2, not a label'),
        ({**HELLO, "good": "yes"}, LABELLED, '"good" is text, not a label'),
        ({**HELLO, "good": [1]}, LABELLED, '"good" is a list, not a label'),
        ({**RANKED, "answers": "Hi."}, BY_PLACE, '"answers" is text, not a list'),
        ({**RANKED, "answers": ["Hi."]}, BY_PLACE, '"answers" has 1 of them'),
        ({**RANKED, "answers": ["a", "b", " ", "c"]}, BY_PLACE, '"answers", completion 3 is empty'),
        ({**RANKED, "answers": ["a", "b", "c", "b"]}, BY_PLACE, '"answers": completions 2 and 4 are equal'),
        ({**RANKED, "answers": ["a", "b", [user("c")]]}, BY_PLACE, '"answers", completion 3 is a message of the role'),
        ({**RANKED, "place": [1, 2, 3]}, BY_PLACE, '"place" has 3 entries for 4 completions'),
        ({**RANKED, "place": [1, 2, 3, None]}, BY_PLACE, '"place", entry 4 is null, not a finite number'),
        ({**RANKED, "place": [2, 2, 2, 2]}, BY_PLACE, '"place" is the same for all completions'),
        ({**RANKED, "place": None}, BY_PLACE, '"place" is null'),
    ],
)
def test_labels_and_rankings_that_are_no_use_say_why(row: dict[str, Any], options: dict[str, Any], what: str) -> None:
    with pytest.raises(BadRow) as caught:
        groups_of(row, "a:1", MappedSource(**options))
    assert what in caught.value.what


# Labels and completions of other prompts


def labelled(path: Path, labels: list[int], **options: Any) -> Jsonl:
    rows = ({"prompt": f"p{at}", "completion": f"c{at}", "good": label} for at, label in enumerate(labels))
    return Jsonl(path=write(path, *rows), label="good", **options)


def test_labels_arrive_with_their_completions(tmp_path: Path) -> None:
    batches = read(labelled(tmp_path / "a.jsonl", [1, 0, 0], shuffle=False))[1]
    assert batches[0][LABEL].tolist() == [1, 0, 0]
    assert MISMATCHED not in batches[0]


@pytest.mark.parametrize(("label", "kind"), [(1, "desirable"), (0, "undesirable")])
def test_labels_all_of_one_kind_are_refused(tmp_path: Path, label: int, kind: str) -> None:
    (problem,) = refused(labelled(tmp_path / "a.jsonl", [label] * 5))
    assert f"every completion is labelled {kind}" in problem
    assert "is this the right column" in problem


def test_every_prompt_gets_one_completion_of_another(tmp_path: Path) -> None:
    spec = labelled(tmp_path / "a.jsonl", [1, 0] * 10, mismatched=True)
    batches = read(spec, size=20)[1]
    (batch,) = batches
    assert batch[MISMATCHED].tolist() == [0, 1] * 20
    assert batch[GROUP].tolist() == [at for at in range(20) for _ in range(2)]
    said = [turns[0]["content"] for turns in batch[COMPLETIONS]]
    asked = [turns[0]["content"] for turns in batch[PROMPTS]]
    assert all(own[1:] == prompt[1:] for own, prompt in zip(said[::2], asked, strict=True))
    assert all(stranger[1:] != prompt[1:] for stranger, prompt in zip(said[1::2], asked, strict=True))
    assert sorted(said[1::2]) == sorted(said[::2]), "every completion is borrowed once"


def test_a_prompt_keeps_its_stranger_whatever_the_batch_and_the_epoch(tmp_path: Path) -> None:
    spec = labelled(tmp_path / "a.jsonl", [1, 0] * 10, mismatched=True)

    def strangers(size: int, epoch: int) -> dict[str, Any]:
        batches = read(spec, size=size, epoch=epoch)[1]
        return {name: batch[COMPLETIONS][2 * at + 1] for batch in batches for at, name in enumerate(batch[IDS])}

    assert strangers(20, 0) == strangers(3, 0) == strangers(7, 4)


def test_a_completion_for_the_same_prompt_is_no_stranger(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{at // 6}", "completion": f"c{at // 6}", "good": at % 2} for at in range(12)]
    spec = Jsonl(path=write(tmp_path / "a.jsonl", *rows), label="good", mismatched=True, chat=False, shuffle=False)
    (batch,) = read(spec, size=12)[1]
    assert batch[COMPLETIONS] == ["c0", "c1"] * 6 + ["c1", "c0"] * 6


def test_without_another_prompt_there_is_no_stranger(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": f"c{at}", "good": at % 2} for at in range(4)]
    (problem,) = refused(Jsonl(path=write(tmp_path / "a.jsonl", *rows), label="good", mismatched=True))
    assert "mismatched needs completions of other prompts" in problem


def test_labelled_pairs_and_a_stranger_share_their_prompt(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{at}", "better": f"b{at}", "worse": f"w{at}"} for at in range(6)]
    spec = Jsonl(
        path=write(tmp_path / "a.jsonl", *rows),
        chosen="better",
        rejected="worse",
        pairs_to_labels=True,
        mismatched=True,
        shuffle=False,
    )
    (batch,) = read(spec, size=6)[1]
    assert batch[LABEL].tolist() == [1, 0, 0] * 6
    assert batch[MISMATCHED].tolist() == [0, 0, 1] * 6
    assert CHOSEN not in batch


def test_rankings_arrive_as_rankings_or_as_pairs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", RANKED, {**RANKED, "place": [1, 2, 3, 4]})
    ranked = read(Jsonl(path=path, completions="answers", rank="place", shuffle=False))[1][0]
    paired = read(Jsonl(path=path, completions="answers", rank="place", rankings_to_pairs=True, shuffle=False))[1][0]
    assert ranked[RANK].tolist() == [1, 0, 2, 1, 0, 1, 2, 3]
    assert CHOSEN not in ranked
    assert (len(paired[CHOSEN]), len(paired[COMPLETIONS]), len(paired[IDS])) == (5 + 6, 8, 2)
    assert RANK not in paired


# Reading files


def test_unusable_lines_are_named_by_file_and_line_all_at_once(tmp_path: Path) -> None:
    rows = [HELLO, "", "{", "[1]", b'{"prompt": "\xff"}', {"prompt": "x"}, HELLO]
    path = write(tmp_path / "a.jsonl", *rows)
    assert refused(Jsonl(path=path)) == [
        f"{path}:3  not JSON: Input data was truncated",
        f"{path}:4  not a JSON object\n{' ' * len(path)}    one object per line",
        f"{path}:5  not UTF-8 text\n{' ' * len(path)}    save the file with that encoding",
        f'{path}:6  no column "completion"\n{" " * len(path)}    known here: prompt',
    ]


def test_unusable_rows_are_skipped_and_counted_when_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", HELLO, "{", HELLO, {"prompt": "x"})
    info, batches = read(Jsonl(path=path, on_bad="skip"))
    assert (info.groups, info.skipped, info.origin) == (2, 2, path)
    assert sorted(ids(batches)) == ["a.jsonl:1", "a.jsonl:3"]


def test_a_column_that_no_row_has_is_one_problem(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl", 300)
    (problem,) = refused(Jsonl(path=path, completion="completions"))
    assert problem.startswith(f'{path}  in each of 300 rows: no column "completions"')
    assert 'did you mean "completion"?' in problem


def test_a_long_list_of_unusable_rows_is_cut_and_says_how_many_more(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", HELLO, *["{"] * 50)
    problems = refused(Jsonl(path=path))
    assert len(problems) == 21
    assert "and 30 more of 51 rows are unusable" in problems[-1]
    assert 'on_bad = "skip"' in problems[-1]


def test_data_without_one_usable_row_is_refused_even_when_skipping(tmp_path: Path) -> None:
    assert "in each of 2 rows: not JSON" in refused(Jsonl(path=write(tmp_path / "a", "{", "{"), on_bad="skip"))[0]


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert refused(Jsonl(path=write(tmp_path / "a.jsonl"))) == [f"{tmp_path / 'a.jsonl'}  no rows in it"]
    assert refused(Jsonl(path=write(tmp_path / "b.jsonl", "", " "))) == [f"{tmp_path / 'b.jsonl'}  no rows in it"]


def test_a_byte_order_mark_and_windows_line_ends_are_read_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + _json(HELLO) + b"\r\n\r\n" + _json(HELLO))
    assert sorted(ids(read(Jsonl(path=str(tmp_path / "a.jsonl")))[1])) == ["a.jsonl:1", "a.jsonl:3"]


def test_an_id_that_comes_twice_names_both_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {**HELLO, "id": "x"}, {**HELLO, "id": "x"})
    (problem,) = refused(Jsonl(path=path, id="id"))
    assert problem == f'{path}:2  the id "x" was used before\n{" " * len(path)}    first at {path}:1'


def test_a_pattern_reads_its_files_in_alphabetical_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        write(tmp_path / name, HELLO)
    spec = Jsonl(path=str(tmp_path / "*.jsonl"), shuffle=False)
    assert ids(read(spec)[1]) == ["a.jsonl:1", "b.jsonl:1"]
    both = Jsonl(path=[str(tmp_path / "c.txt"), str(tmp_path / "*")], shuffle=False)
    assert ids(read(both)[1]) == ["c.txt:1", "a.jsonl:1", "b.jsonl:1"]


def test_files_of_the_same_name_keep_their_folders_in_the_ids(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.jsonl", HELLO)
    found = ids(read(Jsonl(path=str(tmp_path / "*/a.jsonl"), shuffle=False))[1])
    assert found == [f"{tmp_path}/x/a.jsonl:1", f"{tmp_path}/y/a.jsonl:1"]


def test_where_keeps_the_rows_that_are_equal_in_all_columns(tmp_path: Path) -> None:
    rows = [{**HELLO, "kind": kind, "good": good} for kind in ("a", "b") for good in (True, False, 1)]
    path = write(tmp_path / "a.jsonl", *rows, {**HELLO})
    found = ids(read(Jsonl(path=path, where={"kind": "b", "good": True}))[1])
    assert found == ["a.jsonl:4"]


@pytest.mark.parametrize(
    ("where", "what", "mend"),
    [
        ({"kin": "a"}, 'where: no row has a column "kin"', 'did you mean "kind"?'),
        ({"kind": "helpfull"}, 'where: no row has kind = "helpfull"', 'did you mean "helpful"?'),
        ({"kind": "helpful", "level": 2}, "where: no row has all of kind, level as asked", ""),
    ],
)
def test_where_without_a_match_says_what_is_there(tmp_path: Path, where: Any, what: str, mend: str) -> None:
    rows = [{**HELLO, "kind": "helpful", "level": 1}, {**HELLO, "kind": "harmless", "level": 2}]
    (problem,) = refused(Jsonl(path=write(tmp_path / "a.jsonl", *rows), where=where))
    assert what in problem
    assert mend in problem


def test_skipping_every_row_says_how_many_there_are(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl", 3)
    assert refused(Jsonl(path=path, skip=3)) == [f"{path}  skip = 3 leaves none of 3 rows"]


def test_the_digest_follows_what_is_learned_and_not_the_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {**HELLO, "note": 1}, {"prompt": "x", "completion": "y", "note": 2})
    digests = [
        read(spec)[0].digest
        for spec in (Jsonl(path=path), Jsonl(path=path, shuffle=False), Jsonl(path=path, completion="prompt"))
    ]
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 64


# Order and selection


def held(count: int, seed: int, shuffle: bool = True) -> Held:
    made = [Group(id=str(at), prompt="p", completions=["c"]) for at in range(count)]
    return Held("test", "nowhere", shuffle, run(seed), lambda: Loaded(made))


def order(source: Held, size: int, epoch: int) -> list[list[str]]:
    async def whole() -> list[list[str]]:
        await source.open()
        return [batch[IDS] async for batch in source.batches(size, epoch)]

    return anyio.run(whole)


def flat(batches: list[list[str]]) -> list[str]:
    return list(chain.from_iterable(batches))


@settings(QUICK, max_examples=25)
@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 3), st.integers(0, 5), st.booleans())
def test_an_epoch_hands_out_every_group_once_in_batches_of_the_size(
    count: int, size: int, epoch: int, seed: int, shuffle: bool
) -> None:
    batches = order(held(count, seed, shuffle), size, epoch)
    assert sorted(flat(batches), key=int) == [str(at) for at in range(count)]
    assert all(len(batch) == size for batch in batches[:-1])
    assert 0 < len(batches[-1]) <= size


@settings(QUICK, max_examples=15)
@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 3), st.integers(0, 5))
def test_the_order_follows_from_the_seed_and_the_epoch_alone(count: int, size: int, epoch: int, seed: int) -> None:
    once = order(held(count, seed), size, epoch)
    assert order(held(count, seed), size, epoch) == once
    assert flat(order(held(count, seed), size + 1, epoch)) == flat(once)


def test_epochs_and_seeds_differ_in_their_order() -> None:
    orders = [flat(order(held(50, seed), 50, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(found) for found in orders}) == 4


def test_without_shuffling_the_order_is_that_of_the_file() -> None:
    assert flat(order(held(20, 0, shuffle=False), 3, 5)) == [str(at) for at in range(20)]


@settings(QUICK, max_examples=25)
@given(st.integers(1, 40), st.integers(0, 5))
def test_a_bootstrap_sample_is_as_many_groups_each_drawn_from_all_and_named_once(count: int, seed: int) -> None:
    made = [Group(id=str(at), prompt=f"p{at}", completions=["c"]) for at in range(count)]
    drawn = resampled(made, seed)
    assert len(drawn) == len({group.id for group in drawn}) == count
    assert all(group.prompt == f"p{group.id.partition('~')[0]}" for group in drawn)
    assert drawn == resampled(made, seed)


def test_a_bootstrap_sample_leaves_out_a_third_and_samples_of_other_seeds_are_others(tmp_path: Path) -> None:
    made = [Group(id=str(at), prompt="p", completions=["c"]) for at in range(2000)]
    left_out = 1 - len({group.id.partition("~")[0] for group in resampled(made, 1)}) / 2000
    assert left_out == pytest.approx(math.exp(-1), abs=0.03)
    path = write(tmp_path / "a.jsonl", *[{"prompt": f"{at}?", "completion": "Hi."} for at in range(20)])
    infos = [read(Jsonl(path=path, bootstrap=seed))[0] for seed in (None, 1, 2, 1)]
    assert [info.groups for info in infos] == [20] * 4
    assert len({info.digest for info in infos}) == 3


@QUICK
@given(st.integers(2, 40), st.data(), st.none() | st.integers(0, 3), st.sampled_from([{}, {"even": True}]))
def test_a_holdout_and_a_source_cut_by_skip_and_limit_share_no_row(
    count: int, data: st.DataObject, mix: int | None, where: dict[str, Any]
) -> None:
    rows = [
        Row(str(at), str(at), BadRow("torn") if at % 7 == 3 else {"prompt": "p", "even": at % 2 == 0})
        for at in range(count)
    ]
    everything = selected(rows, MappedSource(mix=mix, where=where), "a")
    cut = data.draw(st.integers(1, len(everything)))
    holdout = selected(rows, MappedSource(mix=mix, where=where, limit=cut), "a")
    rest = selected(rows, MappedSource(mix=mix, where=where, skip=cut), "a") if cut < len(everything) else []
    assert [*holdout, *rest] == everything


@pytest.mark.parametrize(
    ("source", "holdout", "shared"),
    [
        ({"limit": 8, "mix": 1}, {"skip": 8, "limit": 2, "mix": 1}, False),
        ({"limit": 8, "mix": 1}, {"skip": 7, "limit": 2, "mix": 1}, True),
        ({"skip": 2}, {"limit": 2}, False),
        ({}, {"limit": 2}, True),
        ({"bootstrap": 1, "shuffle": False}, {"limit": 2}, True),
        ({"limit": 8}, {"limit": 8, "where": {"even": True}}, False),
        ({"limit": 8, "mix": 1}, {"limit": 8, "mix": 2}, False),
    ],
)
def test_a_holdout_of_rows_that_are_learned_from_is_refused(
    source: dict[str, Any], holdout: dict[str, Any], shared: bool, tmp_path: Path
) -> None:
    """Else accuracy is that of what was learned. Rows of a source put into another order are not seen through."""
    path = str(write(tmp_path / "a.jsonl", *[{"prompt": f"{at}?", "completion": "Hi."} for at in range(20)]))
    tables = {"model": {"use": "scratch-lm"}, "optimizer": {"use": "adamw"}, "loss": {"use": "sft"}}
    tables |= {name: {"use": "jsonl", "path": path, **cut} for name, cut in (("source", source), ("holdout", holdout))}
    text = msgspec.toml.encode({"name": "a", **tables}).decode()
    if not shared:
        recipe(text)
        return
    with pytest.raises(UserError) as told:
        recipe(text)
    assert [problem.what for problem in told.value.problems] == ["rows of the [holdout] are learned from, too"]


def test_no_row_is_read_behind_the_last_one_used() -> None:
    def rows() -> Iterator[Row]:
        yield from (Row(str(at), str(at), {}) for at in range(3))
        raise AssertionError("read too far")

    assert [row.name for row in selected(rows(), MappedSource(skip=1, limit=2), "a")] == ["1", "2"]


def test_mixing_is_the_same_in_every_run_and_differs_from_the_file() -> None:
    rows = [Row(str(at), str(at), {}) for at in range(50)]
    mixed = selected(rows, MappedSource(mix=0), "a")
    assert mixed == selected(rows, MappedSource(mix=0), "a") != rows
    assert sorted(mixed) == sorted(rows)


# What a spec says of itself


def test_a_spec_of_demonstrations_provides_no_pairs() -> None:
    assert Jsonl(path="x").provides() == fields(IDS, PROMPTS, COMPLETIONS, GROUP)


def test_a_spec_of_pairs_provides_what_it_maps() -> None:
    spec = Jsonl(path="x", chosen="a", rejected="b", soft="p")
    assert spec.provides() == fields(IDS, PROMPTS, COMPLETIONS, GROUP, CHOSEN, REJECTED, SOFT)


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"label": "a"}, fields(LABEL)),
        ({"label": "a", "mismatched": True}, fields(LABEL, MISMATCHED)),
        ({"chosen": "a", "rejected": "b", "pairs_to_labels": True}, fields(LABEL)),
        ({"completions": "a", "rank": "b"}, fields(RANK)),
        ({"completions": "a", "rank": "b", "rankings_to_pairs": True}, fields(CHOSEN, REJECTED)),
    ],
)
def test_a_form_of_data_provides_what_it_is_and_nothing_else(options: dict[str, Any], more: Any) -> None:
    spec = Jsonl(path="x", **options)
    assert spec.provides() == fields(IDS, PROMPTS, COMPLETIONS, GROUP) | more
    assert not [fault for fault in faults(spec) if not fault.startswith("path")]


def test_an_unmet_need_of_pairs_is_mended_by_naming_the_columns() -> None:
    registry = Registry()
    for spec in truing_specs():
        registry.add(spec, "data")
    sentences = list(registry.providers(CHOSEN))
    columns = "with `chosen` and `rejected` columns, with `first`, `second` and `votes`, or rankings_to_pairs = true"
    assert f'[source] use = "jsonl" {columns} provides it' in sentences
    assert '[source] use = "reasoning-gym" with pairs = true provides it' in sentences
    assert any("and a `margin` column" in sentence for sentence in registry.providers(MARGIN))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chosen": "a"}, "chosen: chosen without rejected | a pair needs both: name the column of the rejected"),
        ({"rejected": "a"}, "rejected: rejected without chosen"),
        ({"chosen": "a", "rejected": "a"}, 'rejected: chosen and rejected are the same column "a"'),
        ({"messages": "a", "prompt": "b"}, "prompt: messages and prompt exclude each other"),
        ({"messages": "a", "chosen": "b", "rejected": "c"}, "chosen: messages and chosen exclude each other"),
        ({"turns": "all"}, "turns: turns is about `messages`, and none is given"),
        ({"completion": "a", "chosen": "b", "rejected": "c"}, "completion: completion beside chosen and rejected"),
        ({"margin": "a"}, "margin: margin belongs to a pair, and the rows are demonstrations"),
        ({"stratum": "a"}, "stratum: stratum belongs to a pair"),
        ({"limit": 0}, "limit: limit = 0 leaves no rows"),
        ({"pairs_to_labels": True}, "pairs_to_labels: pairs_to_labels without pairs"),
        (
            {"chosen": "a", "rejected": "b", "pairs_to_labels": True, "soft": "c"},
            "soft: soft belongs to a pair, and pairs_to_labels leaves none",
        ),
        ({"label": "a", "chosen": "b", "rejected": "c"}, "label: label is about a single completion, and the rows are"),
        ({"label": "a", "messages": "b", "turns": "all"}, "label: label is about one completion, and turns says all"),
        ({"mismatched": True}, "mismatched: mismatched is for labelled completions, and there are none"),
        ({"completions": "a"}, "completions: completions without their order"),
        ({"completions": "a", "rank": "b", "score": "c"}, "completions: completions with both rank and score"),
        ({"completions": "a", "rank": "b", "completion": "c"}, "completion: completion beside completions"),
        (
            {"completions": "a", "rank": "b", "margin": "c"},
            "margin: margin belongs to a pair, and the rows are rankings",
        ),
        (
            {"completions": "a", "rank": "b", "messages": "c"},
            "completions: messages and completions exclude each other",
        ),
        ({"rank": "a"}, "rank: rank without completions"),
        ({"rankings_to_pairs": True}, "rankings_to_pairs: rankings_to_pairs without completions"),
    ],
)
def test_options_that_cannot_go_together_are_refused(options: dict[str, Any], said: str) -> None:
    assert any(fault.startswith(said) for fault in faults(MappedSource(**options)))


@pytest.mark.parametrize(
    "options", [{}, {"messages": "a", "turns": "all"}, {"chosen": "a", "rejected": "b", "soft": "c"}, {"limit": 1}]
)
def test_defaults_are_not_in_the_way(options: dict[str, Any]) -> None:
    assert faults(MappedSource(**options)) == []


def test_a_missing_file_is_named_in_full_with_its_nearest_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", HELLO)
    assert faults(Jsonl(path=str(tmp_path / "trian.jsonl"))) == [
        f'path: no file {tmp_path}/trian.jsonl | did you mean "train.jsonl"?'
    ]
    assert faults(Parquet(path=str(tmp_path / "*.parquet")))[0].startswith(
        f"path: no file matches {tmp_path}/*.parquet"
    )
    assert "there is no folder" in faults(Jsonl(path=str(tmp_path / "no/a.jsonl")))[0]
    assert "is a folder | name its files" in faults(Jsonl(path=str(tmp_path)))[0]
    assert faults(Jsonl(path=[])) == ["path: path names no file"]
    assert faults(Jsonl(path=str(tmp_path / "*.jsonl"))) == []


def test_a_local_data_set_that_is_missing_is_told_from_one_of_the_hub(tmp_path: Path) -> None:
    assert faults(HuggingFace(path="owner/name", revision="main")) == []
    assert faults(HuggingFace(path=str(tmp_path / "gone")))[0].startswith(f"path: no folder {tmp_path}/gone")
    assert "has no revisions" in faults(HuggingFace(path=str(tmp_path), revision="main"))[0]


# Parquet and the `datasets` library


def test_parquet_gives_the_groups_that_json_lines_give(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    rows = [{"prompt": [user(f"p{at}")], "better": f"b{at}", "worse": f"w{at}", "m": at / 2} for at in range(5)]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    options: dict[str, Any] = {"chosen": "better", "rejected": "worse", "margin": "m", "shuffle": False}
    ours = read(Parquet(path=str(tmp_path / "a.parquet"), **options), size=5)[1][0]
    theirs = read(Jsonl(path=write(tmp_path / "a.jsonl", *rows), **options), size=5)[1][0]
    assert ours[IDS] == [f"a.parquet[{at}]" for at in range(5)]
    for key in (PROMPTS, COMPLETIONS):
        assert ours[key] == theirs[key]
    for key in (CHOSEN, REJECTED, MARGIN):
        assert ours[key].tolist() == theirs[key].tolist()


def test_a_file_that_is_no_parquet_says_so(tmp_path: Path) -> None:
    (problem,) = refused(Parquet(path=numbered(tmp_path / "a.parquet", 3)))
    assert "cannot read this file as Parquet" in problem


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def test_a_data_set_saved_to_disk_is_read_back(tmp_path: Path, datasets: Any) -> None:
    one = datasets.Dataset.from_list([HELLO, {"prompt": "x", "completion": "y"}])
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "test": one.select([1])}).save_to_disk(tmp_path / "two")
    info, batches = read(HuggingFace(path=str(tmp_path / "one"), shuffle=False))
    assert (info.name, info.groups) == ("one", 2)
    assert ids(batches) == ["one/train[0]", "one/train[1]"]
    test = read(HuggingFace(path=str(tmp_path / "two"), split="test"))[1]
    assert test[0][PROMPTS] == [[user("x")]]
    (problem,) = refused(HuggingFace(path=str(tmp_path / "two"), split="tst"))
    assert 'no split "tst" in this folder' in problem
    assert 'did you mean "test"?' in problem


def test_a_folder_of_files_is_read_as_a_data_set(tmp_path: Path, datasets: Any) -> None:
    (tmp_path / "data").mkdir()
    numbered(tmp_path / "data/train.jsonl", 6)
    spec = HuggingFace(path=str(tmp_path / "data"), split="train[:4]", skip=1, shuffle=False)
    info, batches = read(spec)
    assert info.groups == 3
    assert batches[0][PROMPTS] == [[user(f"p{at}")] for at in (1, 2, 3)]


def test_a_data_set_that_cannot_be_read_says_why(tmp_path: Path, datasets: Any) -> None:
    (tmp_path / "data").mkdir()
    numbered(tmp_path / "data/train.jsonl", 2)
    (problem,) = refused(HuggingFace(path=str(tmp_path / "data"), split="tset"))
    assert "cannot read this data set" in problem
    assert "tset" in problem


# A real file


@pytest.mark.skipif(not HH.exists(), reason=f"no {HH}: the shared data is not on this machine")
def test_a_published_preference_file_is_read_as_pairs() -> None:
    options: dict[str, Any] = {"prompt": "messages", "chosen": "chosen", "rejected": "rejected", "id": "id"}
    spec = Jsonl(path=str(HH), where={"subset": "helpful-base"}, **options)
    assert faults(spec) == []
    info, batches = read(spec, size=256)
    found = ids(batches)
    assert info.groups == len(found) == len(set(found)) > 1000
    assert info.skipped == 0
    assert all(name.startswith("helpful-base-") for name in found)
    assert all(batch[CHOSEN].tolist() == list(range(0, 2 * len(batch[IDS]), 2)) for batch in batches)
    assert all(prompt[-1]["role"] == "user" for batch in batches for prompt in batch[PROMPTS])
