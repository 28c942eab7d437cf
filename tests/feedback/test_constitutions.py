"""Constitutions: TOML and Markdown say the same, and what is wrong in a file is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from truing.errors import UserError
from truing_feedback.menu_revise import CritiqueRevise
from truing_generate.plugin import Scripted
from truing_texts.constitution import DEFAULT, constitution, principles

GOOD = '[[principle]]\nid = "a"\ncritique = "find"\nrevision = "mend"\ncomparison = "which is better"\n'


EXAMPLE = """[[example]]
principle = "a"
prompt = "Who?"
answer = "He, you fool.\\n\\nHe it was."
critique = "rude"
revised = "He."
"""
MARKED = """# What we hold to

Some words for people.

## a

Critique: find
what is wrong

**Revision:** mend

Comparison: which is better

### Example

Prompt: Who?

Answer: He, you fool.

He it was.
Critique: rude
Revised: He.
"""


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("principle = []", r"toml:1\s+there are no principles"),
        ("[[principle]", r"toml:1\s+not valid TOML"),
        (GOOD.replace("revision", "revison"), r'toml:4\s+no "revison" in \[\[principle\]\]'),
        (GOOD.replace('"mend"', "3"), r"toml:4\s+revision is no text"),
        (GOOD.replace("[[principle]]", "[principle]"), r'toml:1\s+"principle" is no list of tables'),
        (GOOD.replace("find", " "), r'toml:3\s+principle "a" has no critique'),
        (GOOD.replace("which is better", ""), r'toml:5\s+principle "a" has no comparison'),
        (GOOD + GOOD, r'toml:7\s+id "a" is that of the principle at .*toml:1'),
        (GOOD + GOOD.replace('"a"', '"b"'), r'toml:8\s+critique "find" is that of'),
        (GOOD + GOOD.replace('"a"', '"b"').replace("find", "seek"), r'toml:10\s+comparison "which is better" is that'),
        (GOOD + EXAMPLE.replace('"a"', '"b"'), 'of the principle "b", which is none'),
        ("# no principles", r"md:1\s+there are no principles"),
        (MARKED.replace("Revision", "Revison"), r'md:10\s+no label "revison" here\s+did you mean "revision"'),
        (MARKED.replace("find\nwhat is wrong", ""), r'md:7\s+principle "a" has no critique'),
        (MARKED.replace("Critique: find", "find"), r"md:7\s+a text without a label"),
        (MARKED.replace("**Revision:**", "Critique:"), r'md:10\s+a second "critique"'),
        (MARKED + "## a\nCritique: b\nRevision: c\nComparison: d", r'md:23\s+id "a" is that of .*md:5'),
        (MARKED.replace("### ", "#### "), r'md:14\s+the heading "#### Example" begins neither'),
        (MARKED.replace("## a\n", "##\n"), r'md:5\s+principle "number 1" has no id'),
        (MARKED.replace("Revised: He.", ""), r'md:14\s+example "a" has no revised'),
    ],
)
def test_a_file_that_is_no_constitution_is_told_apart_with_its_line(tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / f"some.{'md' if text.startswith('#') else 'toml'}"
    file.write_text(text)
    with pytest.raises(UserError, match=what):
        principles(str(file), compared=True)
    spec = CritiqueRevise(generator=Scripted(samples=1, lines=["x"]), constitution=str(file))
    told = {fault.option for fault in spec.problems()}
    assert told == (set() if "toml" in what and "comparison" in what else {"constitution"})


def test_markdown_says_what_toml_says_field_for_field(tmp_path: Path) -> None:
    marked, tables = tmp_path / "some.md", tmp_path / "some.toml"
    marked.write_text(MARKED)
    tables.write_text(GOOD.replace("find", "find what is wrong") + EXAMPLE)
    assert constitution(str(marked), compared=True) == constitution(str(tables), compared=True)


def test_a_constitution_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read: No such file"):
        principles(str(tmp_path / "none.toml"))


def test_the_constitution_that_comes_with_truing_is_sound(tmp_path: Path) -> None:
    assert principles("") == DEFAULT
    file = tmp_path / "default.toml"
    names = ("id", "critique", "revision", "comparison")
    lines = [["[[principle]]", *(f'{name} = "{getattr(each, name)}"' for name in names)] for each in DEFAULT]
    file.write_text("\n".join(line for some in lines for line in some))
    assert principles(str(file), compared=True) == DEFAULT
