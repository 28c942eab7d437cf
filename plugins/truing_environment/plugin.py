"""The menu of environments, and of what they gave as a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from msgspec import Meta

from truing.fields import EARNED, SCORES, Fields, fields
from truing.plugins import hookimpl
from truing.stage import AnySpec, EnvironmentSpec, ScorerSpec


class Calculator(EnvironmentSpec, frozen=True, kw_only=True):
    """Works out what the model writes before an equals sign, as in solutions of GSM8K (arXiv:2110.14168, appendix C).

    A turn that ends with `=` is answered with the number that the expression before it comes to: whole numbers and
    decimals, the four operations, brackets. What is no expression is answered with `wrong`, and the model goes on. A
    turn that ends with the end token is the last. Nothing is rewarded: what an answer is worth, a scorer says.
    """

    name: ClassVar[str] = "calculator"
    target: ClassVar[str] = "truing_environment.calculator:Calculator"

    opening: Annotated[
        str,
        Meta(
            description='what stands before an expression, as "<<" does in GSM8K; "": it is the last line of the turn'
        ),
    ] = ""
    closing: Annotated[str, Meta(description='written behind the result: ">>" in GSM8K')] = "\n"
    digits: Annotated[int, Meta(ge=0, le=30, description="decimal places a result is rounded to")] = 6
    wrong: Annotated[str, Meta(description="the answer to what is no expression")] = "?"

    def stops(self) -> Sequence[str]:
        return ["="]


class Earned(ScorerSpec, frozen=True, kw_only=True):
    """What the environment of the generator gave for a completion, the rewards of its turns added up."""

    name: ClassVar[str] = "earned"
    target: ClassVar[str] = "truing_environment.earned:Earned"

    def requires(self) -> Fields:
        return fields(EARNED)

    def provides(self) -> Fields:
        return fields(SCORES)


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Environments."""
    return [Calculator, Earned]
