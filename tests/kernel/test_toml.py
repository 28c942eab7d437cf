"""The line of every key, held against `tomllib` on texts that try to mislead a scanner."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from truing import toml
from truing.errors import UserError

SIGNS = "ab1 []{}#=.,'é-"
plain = st.text(SIGNS, max_size=8)


def basic(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


keys = st.one_of(
    st.text("abc-_09", min_size=1, max_size=3).map(lambda key: (key, key)),
    st.text(SIGNS + '"\\\t', max_size=4).map(lambda key: (basic(key), key)),
    st.text(SIGNS.replace("'", '"\\'), max_size=4).map(lambda key: (f"'{key}'", key)),
)
comments = st.one_of(st.just(""), st.text(SIGNS + '"\\\'[{"', max_size=6).map(lambda text: f" # {text}"))
strings = st.one_of(
    plain.map(basic),
    plain.map(lambda text: f"'{text.replace(chr(39), '')}'"),
    st.text(SIGNS + "\n", max_size=12).map(lambda text: f'"""{text}"""'),
    st.text(SIGNS + '\n"', max_size=8).map(lambda text: f'"""{text.replace(chr(34), chr(92) + chr(34))}"""'),
    st.text(SIGNS.replace("'", '"') + "\n\\", max_size=8).map(lambda text: f"'''{text}'''"),
    st.sampled_from(['"""one quote at the end""""', '"""two\n"""""', "'''[\n''''", "'''two'''''", '""', "''"]),
)
scalars = st.one_of(strings, st.sampled_from(["1", "-0.5", "true", "1979-05-27", "0xff", "inf"]))


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    """An array over several lines, with comments among its elements."""
    parts = ["["]
    gaps = st.sampled_from(["", "\n", "  # ] }\n", "\n\n\t"])
    parts.extend(draw(gaps) + value + "," for value in draw(st.lists(inner, max_size=3)))
    return "".join(parts) + draw(st.sampled_from(["]", "\n]", "# [\n]"]))


@st.composite
def inline_tables(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    values = draw(st.lists(inner, max_size=3))
    return "{" + ", ".join(f"k{at} = {value}" for at, value in enumerate(values)) + "}"


values = st.recursive(scalars, lambda inner: arrays(inner) | inline_tables(inner), max_leaves=6)


class Writer:
    """Writes a TOML text and notes on which line each key came to stand."""

    def __init__(self) -> None:
        self.text = ""
        self.lines: dict[toml.Path, int] = {}
        self._names = 0

    def name(self, key: tuple[str, str]) -> tuple[str, str]:
        """A key that no other key is equal to."""
        self._names += 1
        written, meant = key
        mark = f"n{self._names}"
        return (
            (written[:-1] + mark + written[-1], meant + mark) if written[0] in "\"'" else (key[0] + mark, meant + mark)
        )

    def note(self, path: toml.Path) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, dict[toml.Path, int]]:
    out = Writer()

    def pairs(table: toml.Path) -> None:
        for _ in range(draw(st.integers(0, 3))):
            out.text += draw(st.sampled_from(["", "\n", "  ", f"#{draw(plain)}\n"]))
            path = [out.name(draw(keys)) for _ in range(draw(st.integers(1, 2)))]
            out.note((*table, *[meant for _, meant in path]))
            dots = draw(st.sampled_from([".", " . "])).join(written for written, _ in path)
            out.text += f"{dots} = {draw(values)}{draw(comments)}\n"

    def header(mark: str, written: list[str]) -> None:
        brackets = ("[" * len(mark), "]" * len(mark))
        out.text += (
            f"{draw(st.sampled_from(['', '  ']))}{brackets[0]}{'.'.join(written)}{brackets[1]}{draw(comments)}\n"
        )

    pairs(())
    for _ in range(draw(st.integers(0, 3))):
        written, meant = out.name(draw(keys))
        array = draw(st.booleans())
        for number in range(draw(st.integers(1, 2)) if array else 1):
            table: toml.Path = (meant, number) if array else (meant,)
            out.note(table)
            header("[[" if array else "[", [written])
            pairs(table)
            inner_written, inner = out.name(draw(keys))
            kind = draw(st.sampled_from(["none", "table", "array"]))
            for place in range({"none": 0, "table": 1, "array": 2}[kind]):
                under: toml.Path = (*table, inner, place) if kind == "array" else (*table, inner)
                out.note(under)
                header("[[" if kind == "array" else "[", [written, inner_written])
                pairs(under)
    return out.text, out.lines


def at(values: Any, path: toml.Path) -> Any:
    for key in path:
        values = values[key]
    return values


@settings(max_examples=300, deadline=None)
@given(texts())
def test_a_key_stands_on_the_line_on_which_it_is_written(written: tuple[str, dict[toml.Path, int]]) -> None:
    text, expected = written
    document = toml.parse(text, "some.toml")
    assert document.values == tomllib.loads(text) or "nan" in text
    for path, line in expected.items():
        at(document.values, path)
        assert document.lines.get(path) == line, f"{path} in\n{text}"
        assert document.where(*path) == f"some.toml:{line}"


@settings(max_examples=100, deadline=None)
@given(texts())
def test_windows_line_ends_move_no_key(written: tuple[str, dict[toml.Path, int]]) -> None:
    text, expected = written
    lines = toml.parse(text.replace("\n", "\r\n"), "some.toml").lines
    assert {path: lines.get(path) for path in expected} == expected


def test_a_key_that_is_not_written_stands_where_the_nearest_table_does() -> None:
    document = toml.parse('name = "x"\n\n[model]\npath = "y"\n\n[[observer]]\nuse = "z"\n', "r.toml")
    assert document.where("model", "dtype") == "r.toml:3"
    assert document.where("observer", 0, "uri") == "r.toml:6"
    assert document.where("loss", "beta") == "r.toml:1"


def test_a_table_that_only_its_inner_tables_name_stands_at_the_first_of_them() -> None:
    document = toml.parse("seed = 0\n\n[phase.sft.model]\nuse = 1\n\n[phase.dpo.model]\nuse = 2\n", "r.toml")
    assert document.where("phase", "sft") == "r.toml:3"
    assert document.where("phase", "dpo", "source") == "r.toml:6"


def test_a_table_written_after_its_inner_table_stands_at_its_own_header() -> None:
    document = toml.parse("[a.b]\nx = 1\n[a]\ny = 2\n", "r.toml")
    assert (document.where("a"), document.where("a", "y"), document.where("a", "b")) == (
        "r.toml:3",
        "r.toml:4",
        "r.toml:1",
    )


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a = 1\nb = \n", 2, "invalid value"),
        ("a = 1\n\na = 2\n", 3, "overwrite"),
        ("a = 1\n[b\n", 2, "expected ']'"),
        ('a = """\nnever closed\n', 3, "unterminated string"),
    ],
)
def test_a_syntax_error_is_told_with_its_line(text: str, line: int, what: str) -> None:
    with pytest.raises(UserError) as told:
        toml.parse(text, "r.toml")
    (problem,) = told.value.problems
    assert problem.where == f"r.toml:{line}"
    assert problem.what.startswith("not valid TOML: ")
    assert what in problem.what
    assert "at line" not in problem.what


# --- overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("loss.beta=0.5", 0.5),
        ("loss.beta = 3", 3),
        ("loss.beta=true", True),
        ('loss.beta="0.5"', "0.5"),
        ("loss.beta=[1, 2]", [1, 2]),
        ("loss.beta=@sft", "@sft"),
        ("loss.beta=some/path=odd", "some/path=odd"),
        ("loss.beta=", ""),
    ],
)
def test_an_override_is_toml_or_else_plain_text(assignment: str, value: object) -> None:
    document = toml.parse("[loss]\nbeta = 0.1\n", "r.toml")
    document.override(assignment)
    assert document.values["loss"]["beta"] == value
    assert document.where("loss", "beta") == "--set loss.beta"
    assert document.where("loss") == "r.toml:1"


def test_an_override_makes_the_tables_it_needs() -> None:
    document = toml.parse("", "r.toml")
    document.override("phase.sft.loop.steps=3")
    assert document.values == {"phase": {"sft": {"loop": {"steps": 3}}}}


@pytest.mark.parametrize(
    ("assignment", "what"),
    [
        ("loss.beta", "not of the form"),
        ("=1", "not of the form"),
        ("loss.=1", "not of the form"),
        ("name.x=1", '"name" is a value, not a table'),
    ],
)
def test_an_override_that_cannot_be_is_refused(assignment: str, what: str) -> None:
    document = toml.parse('name = "x"\n', "r.toml")
    with pytest.raises(UserError, match=what) as told:
        document.override(assignment)
    assert told.value.problems[0].where == f"--set {assignment}"


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 2000 + "]" * 2000])
def test_what_python_cannot_hold_is_a_mistake_of_the_file_and_on_the_command_line_plain_text(value: str) -> None:
    with pytest.raises(UserError, match=r"toml  an integer of thousands of digits, or brackets nested as deep"):
        toml.parse(f"seed = {value}", "some.toml")
    document = toml.parse("", "some.toml")
    document.override(f"seed={value}")
    assert document.values == {"seed": value}
