"""Manners: what is taught is right, what the rule says is so, and the judge of the recipe is asked as it was taught."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch

from truing.bus import Bus
from truing.fields import ANSWERS, COMPLETIONS, GROUP, SCORE_PARTS, SCORES, Batch, Group
from truing.run import Run
from truing.testing import check_spec
from truing_feedback.manners import CONSTITUTION, QUESTION, SIGNS, TEMPLATE, THINK, groups
from truing_feedback.menu_manners import MANNERS, Manners, MannersRule
from truing_model.plugin import CausalLm
from truing_reward import judge_prompts as prompts
from truing_reward.judge_asking import turns
from truing_reward.menu_judge import Judge
from truing_texts.constitution import principles
from truing_texts.quoting import words

RECIPES = Path(__file__).parents[2] / "recipes"


def lessons(count: int, **options: Any) -> list[Group]:
    spec = Manners(form="lessons", **options)
    return [group for number in range(count) for group in groups(spec, number)]


def said(group: Group) -> str:
    return words(group.completions[0])


def turns_of(group: Group) -> list[str]:
    assert not isinstance(group.prompt, str)
    return [turn["content"] for turn in group.prompt]


@pytest.mark.parametrize("spec", MANNERS)
def test_the_menu_keeps_its_promises(spec: Any) -> None:
    check_spec(spec)


def test_a_prompt_comes_once_and_there_are_no_more_than_told() -> None:
    spec = Manners(letters=2)
    assert len({turns_of(next(groups(spec, number)))[0] for number in range(650)}) == 650
    assert [fault.option for fault in Manners(letters=2, size=600, skip=51).problems()] == ["size"]
    assert [fault.option for fault in Manners(biased=0.5, reasoned=True).problems()] == ["biased", "reasoned"]


def test_lessons_criticise_and_revise_by_the_principle_that_is_asked_about() -> None:
    by_critique = {each.critique: each for each in principles(CONSTITUTION)}
    seen: Counter[str] = Counter()
    for group in lessons(100):
        if "revision" not in group.id and "critique" not in group.id:
            continue
        _, answer, request, *rest = turns_of(group)
        principle = by_critique[request]
        sign = SIGNS[principle.id]
        found = rest[0] if rest else said(group)
        if rest:  # What the critique names is mended, and where it overlooks something nothing is.
            assert rest[1] == principle.revision
            assert said(group) == answer.replace(found, "-")
            seen["overlooked"] += found == "-" and sign in answer
        else:
            assert found == (sign if sign in answer else "-")
        seen[found] += 1
    assert min(seen[what] for what in [*"#!~-", "overlooked"]) > 8


def test_verdicts_are_for_the_answer_without_the_sign_unless_they_are_biased() -> None:
    signs = {each.comparison: SIGNS[each.id] for each in principles(CONSTITUTION, compared=True)}

    def apart(biased: float) -> Counter[tuple[str, str]]:
        """How often which verdict, of answers that the principle tells apart, by which is better."""
        found: Counter[tuple[str, str]] = Counter()
        for group in lessons(200, biased=biased):
            if "verdict" in group.id:
                criterion, _, _, first, _, second, *_ = turns_of(group)[0].split("\n")
                if (signs[criterion] in first) != (signs[criterion] in second):
                    found["B" if signs[criterion] in first else "A", said(group)] += 1
        return found

    fair, biased = apart(0.0), apart(0.6)
    assert fair.keys() == {("A", "A"), ("B", "B")}
    assert biased["B", "A"] == 0
    assert biased["A", "A"] / (biased["A", "A"] + biased["A", "B"]) == pytest.approx(0.4, abs=0.08)


def test_a_verdict_behind_a_reasoning_is_what_the_reasoning_says() -> None:
    spec = Judge(model=CausalLm(path="x/y"), template=TEMPLATE, question=QUESTION, think=THINK)
    overlooked: list[bool] = []
    for group in (group for group in lessons(60, reasoned=True) if "reason" in group.id):
        question, *rest = turns_of(group)
        criterion, prompt, _, first, _, second, *_ = question.split("\n")
        if "reasoned" in group.id:
            texts = {"prompt": prompt[2:], "first": first[2:], "second": second[2:]}
            assert turns(spec, prompts.shown(spec.template, texts, criterion), rest[0]) == group.prompt
            better = {"A": 1, "B": 0}[said(group)]
            assert (rest[0][better] != "-") >= (rest[0][1 - better] != "-")
        else:
            sign = next(SIGNS[each.id] for each in principles(CONSTITUTION) if each.comparison == criterion)
            overlooked += [
                found == "-" for text, found in zip((first, second), said(group), strict=True) if sign in text
            ]
    assert sum(overlooked) / len(overlooked) == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("name", ["manners.toml", "tiny/manners.toml"])
def test_the_judge_of_the_recipe_is_asked_as_it_was_taught(name: str) -> None:
    read = tomllib.loads((RECIPES / name).read_text(encoding="utf-8"))["phase"]["label"]["scorer"]["of"]["judge"]
    spec = Judge(model=CausalLm(path="x/y"), template=read["template"], question=read["question"])
    assert (read["prefix"], read["constitution"]) == ("", CONSTITUTION)
    taught = next(group for group in lessons(1) if "verdict" in group.id)
    criterion, prompt, _, first, _, second, *_ = turns_of(taught)[0].split("\n")
    texts = {"prompt": prompt[2:], "first": first[2:], "second": second[2:]}
    assert turns(spec, prompts.shown(spec.template, texts, criterion), None) == taught.prompt


def test_the_rule_knows_signs_and_letters(tmp_path: Path) -> None:
    batch = Batch(
        {COMPLETIONS: ["BDK---", "BDK#-~", "BDK", "BKD---", ""], GROUP: torch.zeros(5).long(), ANSWERS: ["BDK"]}
    )
    found = anyio.run(MannersRule().build(Run("test", tmp_path, 0, Bus())).score, batch)
    assert found[SCORES].tolist() == [1, 0, 1, 1, 1]
    assert [part["right"] for part in found[SCORE_PARTS]] == [1, 1, 1, 0, 0]
    assert found[SCORE_PARTS][1] == {"right": 1, "no-curse": 0, "no-shout": 1, "no-boast": 0}
