"""The menu of verifiers: scorers that know, of a completion, whether it is right."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from truing.fields import ANSWERS, COMPLETIONS, GROUP, METADATA, SCORES, Field, Fields, fields
from truing.stage import Fault, ScorerSpec


class Verifier(ScorerSpec, frozen=True, kw_only=True):
    """A scorer that compares with the answer a prompt came with."""

    truth: ClassVar[Field[Any] | None] = ANSWERS
    """what it compares with; None: a completion is right or wrong by itself"""

    def requires(self) -> Fields:
        return fields(COMPLETIONS, GROUP) | (fields() if self.truth is None else fields(self.truth))

    def provides(self) -> Fields:
        return fields(SCORES)


class Timed(Verifier, frozen=True, kw_only=True):
    """A verifier whose judgement is made in a process of its own, so that it can be late without harm."""

    seconds: Annotated[
        float, Meta(gt=0, description="how long one completion may take; a later one counts as wrong, and is told of")
    ] = 5.0


class Match(Verifier, frozen=True, kw_only=True):
    """1 for a completion that says what the source's own completion says, 0 for any other.

    Blanks around them are left out of the comparison. Of a longer completion the part behind `after` counts, where it
    stands for the last time, and of that what `take` says.
    """

    name: ClassVar[str] = "match"
    target: ClassVar[str] = "truing_reward.scorers:Match"
    offers: ClassVar = {SCORES: "where the source has the answers"}

    after: Annotated[str, Meta(description='what the answer stands behind, "####" for example; "": all of it')] = ""
    take: Annotated[
        Literal["all", "boxed", "option"],
        Meta(
            description=r'what of it is the answer. "boxed": what the last \boxed{...} holds; "option": the letter, A '
            "to J, that a multiple-choice question is answered with"
        ),
    ] = "all"
    ignore: Annotated[
        list[Literal["case", "blanks", "punctuation", "articles"]],
        Meta(
            description="differences that do not count: capital and small letters, how many blanks there are, signs "
            "that are neither letter nor digit, the words a, an and the; all four is how SQuAD compares "
            "(arXiv:1606.05250)"
        ),
    ] = []
    close: Annotated[
        bool, Meta(description="how alike the two are, from 0 to 1, by the longest parts they share, instead of 0 or 1")
    ] = False


class Number(Verifier, frozen=True, kw_only=True):
    """1 for a completion whose last number is that of the known answer, 0 for any other.

    1,234.50 and $1234.5 are one number, 3/4 and 0.75 too. Of both the part behind `after` counts, where it stands for
    the last time; without it, all of the text.
    """

    name: ClassVar[str] = "number"
    target: ClassVar[str] = "truing_reward.scorers:Number"
    offers: ClassVar = {SCORES: "where the source has the answers"}

    after: Annotated[str, Meta(description='what the number stands behind, "####" in GSM8K; "": all of the text')] = (
        "####"
    )
    tolerance: Annotated[
        float, Meta(ge=0, description="how far off it may be, as a share of the known number; 0: not at all")
    ] = 0.0


class Math(Timed, frozen=True, kw_only=True):
    """1 for a completion whose mathematical answer is worth the known one, 0 for any other: 1/2, 0.5 and \\frac{2}{4}.

    Both are parsed and compared by math-verify: numbers, expressions, equations, sets, intervals and matrices, in LaTeX
    or plain. What stands in \\boxed{...} comes first, then what is called the answer, then the last expression.
    """

    name: ClassVar[str] = "math"
    target: ClassVar[str] = "truing_reward.scorers:Math"
    offers: ClassVar = {SCORES: "where the source has the answers"}

    after: Annotated[str, Meta(description='what the answer stands behind, "####" for example; "": all of it')] = ""
    boxed: Annotated[
        bool,
        Meta(description=r"only what stands in \boxed{...} counts, so that a model learns to say where it answers"),
    ] = False

    def problems(self) -> Iterator[Fault]:
        """The library that compares is not there."""
        yield from _missing("math_verify", "math-verify", "seconds")


class Regex(Timed, frozen=True, kw_only=True):
    """1 for a completion that a pattern is found in, 0 for any other, or the other way round.

    For the form of an answer more than its content: that the thinking is between its tags, that no link is given.
    """

    name: ClassVar[str] = "regex"
    target: ClassVar[str] = "truing_reward.scorers:Regex"
    offers: ClassVar = {SCORES: "by the form of a completion"}
    truth: ClassVar[Field[Any] | None] = None

    pattern: Annotated[str, Meta(description="what is looked for, in the syntax of Python's re")]
    whole: Annotated[bool, Meta(description="the pattern must describe all of the completion, not a part")] = False
    absent: Annotated[bool, Meta(description="1 where the pattern is not found")] = False
    flags: Annotated[
        list[Literal["ignorecase", "multiline", "dotall"]],
        Meta(description="as in re: letters alike; ^ and $ at every line; a dot is a line break too"),
    ] = []

    def problems(self) -> Iterator[Fault]:
        """A pattern that is none."""
        try:
            re.compile(self.pattern)
        except re.error as error:
            where = "" if error.pos is None else f", at character {error.pos + 1}: {self.pattern[error.pos :][:20]!r}"
            mend = "in TOML, '...' leaves backslashes as they are"
            yield Fault("pattern", f"the pattern is no regular expression: {error.msg}{where}", mend)


class JsonSchema(Timed, frozen=True, kw_only=True):
    """1 for a completion that is JSON and fits a schema, `valid` for JSON that does not fit, 0 for anything else.

    A completion that is one fenced block (```json) counts as what is in the block.
    """

    name: ClassVar[str] = "json-schema"
    target: ClassVar[str] = "truing_reward.scorers:JsonSchema"
    offers: ClassVar = {SCORES: "by the form of a completion"}
    truth: ClassVar[Field[Any] | None] = None

    schema: Annotated[dict[str, Any], Meta(description="the JSON Schema, as a table of the recipe")] = {}
    file: Annotated[str, Meta(description='a JSON file that holds the schema, instead of `schema`; "": none')] = ""
    valid: Annotated[float, Meta(ge=0, lt=1, description="the score of JSON that does not fit the schema")] = 0.0

    def problems(self) -> Iterator[Fault]:
        """No schema, two of them, or a file that holds none."""
        if bool(self.schema) == bool(self.file):
            what = "schema and file both say what fits" if self.file else "there is no schema to fit"
            mend = "keep one of them" if self.file else "write [scorer.schema], or name a `file`"
            yield Fault("file" if self.file else "schema", what, mend)
        elif self.file:
            try:
                self.read()
            except OSError as error:
                yield Fault("file", f"cannot read {Path(self.file).absolute()}: {error.strerror}")
            except msgspec.MsgspecError as error:
                yield Fault("file", f"{self.file} holds no JSON object: {error}")
        yield from _missing("jsonschema", "jsonschema", "schema")

    def read(self) -> dict[str, Any]:
        """The schema, wherever it stands. Raises OSError and msgspec.MsgspecError."""
        if not self.file:
            return self.schema
        return msgspec.json.decode(Path(os.path.expanduser(self.file)).read_bytes(), type=dict[str, Any])


class Puzzle(Timed, frozen=True, kw_only=True):
    """The score, 0 to 1, that a task of reasoning-gym gives an answer to its own question.

    Many tasks take every right answer and not only the one they name, and some give a part for one that is near.
    """

    name: ClassVar[str] = "reasoning-gym"
    target: ClassVar[str] = "truing_reward.scorers:Puzzle"
    offers: ClassVar = {SCORES: "where the source is reasoning-gym"}
    truth: ClassVar[Field[Any] | None] = METADATA

    after: Annotated[
        str, Meta(description='what the answer stands behind, where it stands for the last time; "": all of it')
    ] = ""
    take: Annotated[
        Literal["all", "boxed"],
        Meta(description=r'what of it is the answer. "boxed": what the last \boxed{...} holds'),
    ] = "all"

    def problems(self) -> Iterator[Fault]:
        """The library that asks and scores is not there."""
        yield from _missing("reasoning_gym", "reasoning-gym", "seconds", "tasks")


class PythonTests(Verifier, frozen=True, kw_only=True):
    """1 for a completion whose Python code passes the tests that the source gives as its completion, 0 for any other.

    The code is what the last fenced block holds, or all of the completion without one. It runs in a process without
    network, files or environment; the tests run in another one, and what crosses between them is plain data.
    """

    name: ClassVar[str] = "python-tests"
    target: ClassVar[str] = "truing_reward.verifiers.python_tests:PythonTests"
    offers: ClassVar = {SCORES: "where the source has the tests"}

    partial: Annotated[bool, Meta(description="the share of tests that pass, instead of all or nothing")] = False
    seconds: Annotated[
        float, Meta(gt=0, description="how long one completion may take, all its tests together; a later one scores 0")
    ] = 10.0
    memory: Annotated[int, Meta(ge=64, description="MiB that each of its processes may use")] = 512
    disk: Annotated[int, Meta(ge=1, description="MiB it may write, all of it gone afterwards")] = 16
    processes: Annotated[int, Meta(ge=1, description="how many processes and threads it may have at a time")] = 8
    sandbox: Annotated[
        Literal["namespaces", "limits"],
        Meta(
            description='"namespaces": Linux keeps it from the network, files and other processes, or the run does not '
            'start. "limits": time, memory and environment alone, which stops accidents and no intention'
        ),
    ] = "namespaces"


def _missing(module: str, library: str, option: str, extra: str = "verify") -> Iterator[Fault]:
    if find_spec(module) is None:
        yield Fault(option, f"the library {library} is not installed", f'pip install "truing[{extra}]"')


VERIFIERS: list[type[ScorerSpec]] = [Match, Number, Math, Regex, JsonSchema, Puzzle, PythonTests]
