"""A batch of some of its completions, and what is left of each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

from truing.fields import (
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    LOGPROBS,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    REJECTED,
    SEQ,
    SOFT,
    STEP_END,
    STEP_SCORES,
    STEP_SEQ,
    VERSION,
    Batch,
)
from truing_tensor.groups import take_completions
from truing_tensor.segments import segment_rest

EXAMPLES = settings(deadline=None, max_examples=60, database=None)


def whole() -> Batch:
    """Two groups, of three completions and of two, with pairs and steps; every token says where it is."""
    return Batch(
        {
            IDS: ["a", "b"],
            PROMPT_TOKENS: torch.tensor([7, 8, 9]),
            PROMPT_GROUP: torch.tensor([0, 1, 1]),
            GROUP: torch.tensor([0, 0, 0, 1, 1]),
            COMPLETIONS: list("vwxyz"),
            VERSION: torch.arange(5),
            SEQ: torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 4]),
            LOGPROBS: -torch.arange(9.0),
            CHOSEN: torch.tensor([0, 1, 4]),
            REJECTED: torch.tensor([2, 0, 3]),
            SOFT: torch.tensor([0.1, 0.2, 0.3]),
            STEP_SEQ: torch.tensor([0, 2, 2, 4]),
            STEP_END: torch.tensor([1, 3, 5, 8]),
            STEP_SCORES: torch.tensor([1.0, 2.0, 3.0, 4.0]),
        }
    )


@given(st.lists(st.booleans(), min_size=5, max_size=5))
@EXAMPLES
def test_what_lies_inside_a_completion_goes_with_it_and_points_to_where_it_pointed(keep: list[bool]) -> None:
    before = whole()
    after = take_completions(before, torch.tensor(keep))
    names = before[COMPLETIONS]
    assert after[COMPLETIONS] == [name for name, kept in zip(names, keep, strict=True) if kept]
    assert after[IDS] == before[IDS]
    assert after[PROMPT_TOKENS].tolist() == [7, 8, 9]
    assert after[VERSION].tolist() == [at for at, kept in enumerate(keep) if kept]

    def told(batch: Batch) -> dict[str, list[tuple[object, ...]]]:
        """What a batch says, by the names of its completions."""
        name, owner = batch[COMPLETIONS], batch[SEQ].tolist()
        tokens = [(name[seq], value) for seq, value in zip(owner, batch[LOGPROBS].tolist(), strict=True)]
        pairs = zip(batch[CHOSEN].tolist(), batch[REJECTED].tolist(), batch[SOFT].tolist(), strict=True)
        steps = zip(batch[STEP_SEQ].tolist(), batch[STEP_END].tolist(), batch[STEP_SCORES].tolist(), strict=True)
        return {
            "group": list(zip(name, batch[GROUP].tolist(), strict=True)),
            "token": list(tokens),
            "pair": [(name[one], name[other], soft) for one, other, soft in pairs],
            "step": [(name[seq], *tokens[end], score) for seq, end, score in steps],
        }

    left = set(after[COMPLETIONS])
    expected = {
        dim: [entry for entry in entries if {part for part in entry if isinstance(part, str)} <= left]
        for dim, entries in told(before).items()
    }
    assert told(after) == expected


@given(st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=4), min_size=1, max_size=5))
@EXAMPLES
def test_the_rest_of_a_segment_is_what_is_left_of_it(segments: list[list[float]]) -> None:
    flat = torch.tensor([value for some in segments for value in some], dtype=torch.float64)
    owner = torch.tensor([at for at, some in enumerate(segments) for _ in some])
    expected = [sum(some[at:]) for some in segments for at in range(len(some))]
    assert segment_rest(flat, owner, len(segments)).tolist() == pytest.approx(expected, abs=1e-12)
