"""The greedy completion beside the sampled ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.generate.samplers import FromFolder, asked, by_completion, generated, run_in

from truing.fields import LOGPROBS_OLD, LOGPROBS_SAMPLED, OPPONENT, SEQ
from truing.testing import check_spec
from truing_generate.plugin import Engine
from truing_model.plugin import ScratchLm
from truing_model.scratch import write_scratch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("greedy")
    write_scratch(place, ScratchLm(width=32), 0)
    return place


def test_an_opponent_at_temperature_0_says_what_the_policy_says_at_its_likeliest(folder: Path, tmp_path: Path) -> None:
    texts, policy = ("one", "another prompt"), FromFolder(folder)
    options = {"samples": 2, "opponents": 1, "mixture": 0.0, "max_new_tokens": 6}
    batch = generated(folder, run_in(tmp_path), asked(*texts), policy, opponent_temperature=0.0, **options)
    plain = generated(folder, run_in(tmp_path), asked(*texts), policy, **options)
    greedy = generated(folder, run_in(tmp_path), asked(*texts), policy, samples=1, temperature=0.0, max_new_tokens=6)
    assert batch[OPPONENT].tolist() == [0, 0, 1] * 2
    said, drawn, likeliest = (by_completion(each) for each in (batch, plain, greedy))
    assert [said[2], said[5]] == likeliest
    assert [said[at] for at in (0, 1, 3, 4)] == [drawn[at] for at in (0, 1, 3, 4)]
    assert drawn[2] != said[2]
    # All was written by one model, so what it says of a token is known; a token that had to come has probability 1.
    mine = batch[OPPONENT][batch[SEQ]] == 1
    assert not batch[LOGPROBS_SAMPLED][mine].any()
    torch.testing.assert_close(batch[LOGPROBS_OLD][mine], greedy[LOGPROBS_OLD], rtol=0, atol=1e-4)


def test_a_temperature_of_nobody_is_told() -> None:
    assert [fault.option for fault in Engine(opponent_temperature=0.0).problems()] == ["opponent_temperature"]
    cold = Engine(opponents=1, opponent_temperature=-1.0)
    assert [fault.option for fault in cold.problems()] == ["opponent_temperature"]
    check_spec(Engine)
    assert LOGPROBS_OLD in Engine(opponents=1, mixture=0.0).provides()
    assert LOGPROBS_OLD not in Engine(opponents=1).provides()
