"""Scorers: what is right, how close an answer comes, and what a reward model says."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from tests.model.conftest import pairs

from truing.bus import Bus
from truing.errors import UserError
from truing.fields import ANSWERS, COMPLETIONS, GROUP, SCORES, TOKENS, Batch, fields
from truing.run import Run
from truing.testing import check_spec
from truing_model.plugin import CausalLm, RewardModel, RewardScorer
from truing_reward.menu_verifiers import Match
from truing_tensor.groups import batch_of


def scores(spec: Match, answers: list[Any], completions: list[Any], group: list[int]) -> list[float]:
    batch = Batch({ANSWERS: answers, COMPLETIONS: completions, GROUP: torch.tensor(group)})
    return anyio.run(partial(spec.build(Run("test", Path(), 0, Bus())).score, batch))[SCORES].tolist()


def test_a_completion_is_right_when_it_is_the_answer_of_its_own_group_blanks_apart() -> None:
    assert scores(Match(), ["4", "7"], [" 4\n", "7", "7", "four"], [0, 0, 1, 1]) == [1, 0, 1, 0]


def test_behind_a_mark_only_what_follows_its_last_place_counts() -> None:
    spec = Match(after="####")
    assert scores(spec, ["so #### 4"], ["it is #### 5 or rather #### 4", "#### 4 apples", "4"], [0, 0, 0]) == [1, 0, 1]


def test_small_and_capital_letters_may_be_alike() -> None:
    assert scores(Match(), ["Yes"], ["yes"], [0]) == [0]
    assert scores(Match(ignore=["case"]), ["Yes"], ["yes"], [0]) == [1]


def test_answers_of_messages_are_read_too() -> None:
    assert scores(Match(), [[{"role": "assistant", "content": "4"}]], ["4"], [0]) == [1]


def test_closeness_rises_with_what_is_shared_and_is_one_only_for_the_answer() -> None:
    one, other, none = scores(Match(close=True), ["12345"], ["12345", "12395", "abc"], [0, 0, 0])
    assert one == 1 > other > none == 0


@pytest.mark.parametrize("spec", [Match, RewardScorer])
def test_scorers_keep_their_promises(spec: Any) -> None:
    check_spec(spec, **({"path": "organisation/model"} if spec is RewardScorer else {}))


def test_a_reward_model_scores_what_it_would_have_learned_from(tmp_path: Path, llama: Path) -> None:
    run = Run("test", tmp_path, 0, Bus(), wanted=fields(SCORES))
    options = {"dtype": "fp32", "device": "cpu"}
    learner: Any = RewardModel(path=str(llama), **options).build(run)
    learner.export(tmp_path / "reward")
    policy: Any = CausalLm(path=str(llama), **options).build(run)
    batch = policy.encode(batch_of(pairs())).batch
    learner.network.eval()
    expected = learner.network(batch)[SCORES].detach()
    scorer = RewardScorer(path=str(tmp_path / "reward"), **options).build(run)
    found = anyio.run(scorer.score, batch)[SCORES]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="token 999 was sampled"):
        anyio.run(scorer.score, batch.put(TOKENS, torch.full_like(batch[TOKENS], 999)))
