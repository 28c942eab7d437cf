"""A scorer made of scorers: the sum, its parts, and what becomes of a stop."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
import torch

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import (
    ANSWERS,
    COMPLETIONS,
    FINISH,
    GROUP,
    IDS,
    PROMPTS,
    SCORE_PARTS,
    SCORES,
    STEP_SCORES,
    TOKENS,
    VERSION,
    Batch,
    Fields,
    fields,
)
from truing.run import Run, Stopped
from truing.sampling import numbers_of
from truing.stage import ScorerSpec
from truing.testing import check_spec, recipe
from truing_reward.menu_mix import Mix


class Constant(ScorerSpec, frozen=True, kw_only=True):
    """Says the same of everything."""

    name: ClassVar[str] = "constant"
    value: float = 1.0

    def build(self, run: Run) -> Any:
        return self

    async def score(self, batch: Batch) -> Batch:
        return batch.put(SCORES, torch.full((len(batch[GROUP]),), self.value))


class Quitter(Constant, frozen=True, kw_only=True):
    """Sees that the run is to stop."""

    async def score(self, batch: Batch) -> Batch:
        raise Stopped


BATCH = Batch(
    {ANSWERS: ["4"], COMPLETIONS: ["4", "5"], GROUP: torch.tensor([0, 0]), TOKENS: [1] * 4, FINISH: ["end"] * 2}
)


def scored(spec: Mix) -> Batch:
    return anyio.run(partial(spec.build(Run("test", Path(), 0, Bus())).score, BATCH))


def test_scores_are_summed_by_weight_and_each_is_kept_under_its_name() -> None:
    of: dict[str, ScorerSpec] = {"two": Constant(value=2.0), "three": Constant(value=3.0), "gold": Constant(value=9.0)}
    batch = scored(Mix(of=of, weights={"two": 0.5, "gold": 0.0}))
    assert batch[SCORES].tolist() == [4.0, 4.0]
    assert batch[SCORE_PARTS] == [{"two": 2.0, "three": 3.0, "gold": 9.0}] * 2
    assert numbers_of(batch)["score/gold"] == 9.0


def test_what_one_of_them_alone_says_beside_is_handed_on() -> None:
    class Steps(Constant, frozen=True, kw_only=True):
        def provides(self) -> Fields:
            return fields(SCORES, STEP_SCORES)

        async def score(self, batch: Batch) -> Batch:
            return (await Constant.score(self, batch)).put(STEP_SCORES, torch.ones(3))

    one = Mix(of={"steps": Steps(), "right": Constant()})
    assert one.provides() == fields(SCORES, SCORE_PARTS, STEP_SCORES)
    assert scored(one)[STEP_SCORES].tolist() == [1.0] * 3
    both = Mix(of={"one": Steps(), "other": Steps()})
    assert STEP_SCORES not in both.provides() | set(scored(both))


def test_what_is_kept_is_a_line_for_each_prompt_with_what_each_scorer_said_under_which_weights(tmp_path: Path) -> None:
    of: dict[str, ScorerSpec] = {"proxy": Constant(value=2.0), "gold": Constant(value=9.0)}
    run = Run("test", tmp_path, 0, Bus()).at("rl", fields())
    mix = Mix(of=of, weights={"gold": 0.0}, keep=True).build(run)
    asked = {IDS: ["a", "b"], PROMPTS: ["2+2", "2+3"], ANSWERS: ["4", "5"], GROUP: torch.tensor([0, 1])}
    batch = BATCH.put_all(asked)
    anyio.run(mix.score, batch.put(VERSION, torch.tensor([3, 3])))
    anyio.run(mix.score, batch.put(VERSION, torch.tensor([4, 4])))
    lines = [json.loads(line) for line in (tmp_path / "rl" / "scores.jsonl").read_text().splitlines()]
    assert [(line["id"], line["version"]) for line in lines] == [("a", [3]), ("b", [3]), ("a", [4]), ("b", [4])]
    assert lines[1]["completions"] == ["5"]
    assert (lines[1]["scores"], lines[1]["score_parts"]) == ([2.0], [{"proxy": 2.0, "gold": 9.0}])


def test_a_stop_that_one_of_them_sees_is_a_stop() -> None:
    with pytest.raises(Stopped):
        scored(Mix(of={"one": Constant(), "other": Quitter()}))


def test_a_mix_keeps_its_promises() -> None:
    check_spec(Mix, of={"one": Constant()})


@pytest.mark.parametrize(
    ("scorer", "told"),
    [
        ("of = {}", "a mix of no scorers"),
        ('of.right = {use = "match"}\nweights = {rihgt = 1.0}', 'a weight for "rihgt"'),
        ('of.right = {use = "match"}\nweights = {right = 0.0}', "every scorer has weight 0"),
    ],
)
def test_a_mix_that_says_nothing_is_refused(scorer: str, told: str) -> None:
    text = (Path(__file__).parents[2] / "recipes" / "tiny" / "grpo.toml").read_text(encoding="utf-8")
    before, _, rest = text.partition("[phase.rl.scorer]\n")
    table, _, after = rest.partition("\n[")
    assert table
    with pytest.raises(UserError, match=told):
        recipe(f'{before}[phase.rl.scorer]\nuse = "mix"\n{scorer}\n\n[{after}')
