"""What a judge's labels are worth: worked by hand, by principle, in one order and in both."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.evaluate.conftest import Call, Write

from truing_evaluate.audit import audited


def verdict(forward: list[float], backward: list[float], principle: str = "kind", **more: Any) -> dict[str, Any]:
    """A comparison of the first two completions."""
    both = {"forward": forward, "backward": backward, "missing": ["", ""], "tokens": 10}
    return {"first": 0, "second": 1, "principle": principle, "criterion": "which is kinder", **both, **more}


def rows(*verdicts: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [{"verdicts": [each], **more} for each in verdicts]


def test_what_is_said_is_worked_out_by_hand(write: Write) -> None:
    # The first is shown first, then the second; the judge leans to what is shown first, less so in the last two.
    file = write(
        [
            *rows(
                verdict([0.9, 0.1], [0.6, 0.4]),
                verdict([0.6, 0.4], [0.8, 0.2]),
                verdict([0.7, 0.3], [], missing=["", "long"]),
            ),
            *rows(verdict([0.9, 0.1], [0.2, 0.8], "short"), verdict([0.3, 0.3, 0.4], [0.5, 0.5, 0.0], "short")),
        ]
    )
    by = {each.principle: each for each in audited(file).by}
    assert list(by) == ["kind", "short", "all"]
    kind, short = by["kind"], by["short"]
    assert (kind.labels, kind.missing, kind.tokens) == (3, pytest.approx(1 / 6), 30)
    assert kind.sure == pytest.approx((0.65 + 0.6) / 2)
    assert (kind.disagree.value, kind.first) == (1.0, 1.0)
    odds = [math.log(chance / (1 - chance)) for chance in (0.9, 0.6, 0.6, 0.8)]
    assert kind.bias == pytest.approx(sum(odds) / 4)
    # A tie in both orders is no disagreement, and half of it is chosen.
    assert (short.disagree.value, short.first) == (0.0, 0.5)
    assert by["all"].labels == 5
    assert kind.agree is None


def test_what_is_true_is_told_for_one_order_and_for_both(write: Write) -> None:
    leaning, sound = verdict([0.9, 0.1], [0.6, 0.4]), verdict([0.2, 0.8], [0.9, 0.1], "short")
    parts = [{"rule/kind": 1.0, "rule/short": 0.0}, {"rule/kind": 0.0, "rule/short": 1.0}]
    file = write(rows(leaning, sound, score_parts=parts))
    by = {each.principle: each for each in audited(file, "score_parts.rule/{principle}").by}
    for name, one_order in (("kind", 0.5), ("short", 1.0), ("all", 0.75)):
        assert (by[name].one_order.value, by[name].agree.value) == (one_order, 1.0)  # type: ignore[union-attr]
    (told,) = audited(write(rows(leaning, pairs=[[1, 0]])), "pairs").by
    assert told.agree
    assert (told.apart, told.agree.value) == (1, 0.0)
    (told,) = audited(write(rows(leaning, pairs=[])), "pairs").by
    assert (told.apart, told.agree) == (0, None)


def test_the_command_prints_a_line_for_each_principle_and_says_what_is_wrong(write: Write, truing: Call) -> None:
    file = write(rows(verdict([0.9, 0.1], [0.2, 0.8]), verdict([0.9, 0.1], [0.2, 0.8], "short"), scores=[1.0, 0.0]))
    said = truing("audit", file, "--truth", "scores")
    assert said.status == 0
    assert [line.split()[0] for line in said.out.splitlines()[3:]] == ["PRINCIPLE", "kind", "short", "all"]
    assert truing("audit", file, "--json").json["by"][-1]["labels"] == 2
    assert 'no "nothing" in this row' in truing("audit", file, "--truth", "nothing").err
    assert "it has no verdicts" in truing("audit", write([{}])).err
    assert "not there" in truing("audit", write(rows(verdict([1.0, 0.0], [], second=2)))).err
    assert "ratings have no order" in truing("audit", write([{"verdicts": [{"completion": 0}]}])).err
