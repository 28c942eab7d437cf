"""The batch: immutable, typed, and handed out no further than declared."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from truing.fields import ADVANTAGES, BELONGS, COMPLETIONS, IDS, PROMPTS, Batch, Field, fields


def test_setting_a_field_makes_a_new_batch_and_leaves_the_old_one() -> None:
    old = Batch({IDS: ["a"]})
    new = old.put(IDS, ["b"]).put(PROMPTS, ["why"])
    assert (old[IDS], new[IDS], new[PROMPTS]) == (["a"], ["b"], ["why"])
    assert PROMPTS not in old


def test_a_batch_cannot_be_written_to() -> None:
    batch = Batch({IDS: ["a"]})
    with pytest.raises(TypeError):
        batch[IDS] = ["b"]  # type: ignore[index]
    with pytest.raises(TypeError):
        del batch[IDS]  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        batch.ids = ["b"]  # type: ignore[attr-defined]


def test_a_batch_does_not_follow_the_mapping_it_was_made_from() -> None:
    values = {IDS: ["a"]}
    batch = Batch(values)
    values[IDS] = ["b"]
    assert batch[IDS] == ["a"]


def test_a_missing_field_is_named_together_with_what_is_there() -> None:
    with pytest.raises(KeyError, match=r"no `advantages`; it has ids, prompts"):
        Batch({PROMPTS: [], IDS: []})[ADVANTAGES]


def test_a_stage_is_handed_only_what_it_declared() -> None:
    batch = Batch({IDS: ["a"], PROMPTS: ["why"], COMPLETIONS: ["so"]})
    assert set(batch.only(fields(IDS, COMPLETIONS, ADVANTAGES))) == {IDS, COMPLETIONS}


def test_many_fields_set_at_once_win_over_those_that_were_there() -> None:
    batch = Batch({IDS: ["a"], PROMPTS: ["why"]}).put_all({IDS: ["b"], COMPLETIONS: ["so"]})
    assert dict(batch) == {IDS: ["b"], PROMPTS: ["why"], COMPLETIONS: ["so"]}


def test_two_fields_of_one_name_along_different_dims_are_two_fields() -> None:
    one, other = Field[list[int]]("level", "seq"), Field[list[int]]("level", "group")
    assert Batch({one: [1], other: [2]})[one] == [1]


def test_a_batch_is_a_mapping_that_counts_and_names_its_fields() -> None:
    batch = Batch({IDS: ["a"], COMPLETIONS: ["so"]})
    assert isinstance(batch, Mapping)
    assert len(batch) == 2
    assert repr(batch) == "Batch(completions[seq], ids[group])"


def test_every_dim_lies_inside_one_that_leads_to_the_groups() -> None:
    for dim in BELONGS:
        seen = [dim]
        while seen[-1] != "group":
            outer, inside = BELONGS[seen[-1]]
            assert inside.dims == seen[-1]
            assert inside.into == outer
            assert outer not in seen
            seen.append(outer)
