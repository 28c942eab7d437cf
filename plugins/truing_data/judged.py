"""Which options of judged pairs go together: of two answers, votes on them, and the order they were shown in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from truing.stage import Fault

if TYPE_CHECKING:
    from truing_data.mapping import MappedSource


def unjudged(options: MappedSource) -> Iterator[Fault]:
    """What is missing, or has no effect, in how two answers are judged."""
    yield from _without_answers(options)
    if options.first is not None:
        yield from _of_answers(options)
    yield from _without_votes(options)
    yield from _of_order(options)


def _without_answers(options: MappedSource) -> Iterator[Fault]:
    if options.first is not None:
        return
    given = {"votes": options.votes, "strength": options.strength, "ties": options.ties != "drop" or None}
    for option, value in given.items():
        if value is not None:
            yield Fault(
                option, f"{option} is about two answers that are not told apart yet", "map `first` and `second`"
            )


def _of_answers(options: MappedSource) -> Iterator[Fault]:
    if options.chosen is not None:
        yield Fault("first", "first beside chosen", "`chosen` says which is better already; leave one of them out")
    if options.votes is None and options.strength is None:
        yield Fault("first", "nothing says which of first and second is better", "name a column: `votes` or `strength`")
    if options.votes is not None and options.strength is not None:
        yield Fault("strength", "strength beside votes", "both say which is better; leave one of them out")
    for option, instead in (("soft", 'votes with verdict = "share"'), ("margin", "`strength`")):
        if getattr(options, option) is not None:
            what = f"{option} is about `chosen`, and which of first and second that is is not said yet"
            yield Fault(option, what, f"use {instead}")
    if options.pairs_to_labels:
        yield Fault("pairs_to_labels", "pairs_to_labels beside first and second", "it takes `chosen` and `rejected`")


def _without_votes(options: MappedSource) -> Iterator[Fault]:
    if options.votes is None:
        for option, given in (("favours", bool(options.favours)), ("verdict", options.verdict != "majority")):
            if given:
                yield Fault(option, f"{option} is about votes, and there are none", "name the column of `votes`")
    if options.strength is None and options.strength_scale != 1:
        yield Fault("strength_scale", "strength_scale without strength", "name the column of `strength`")
    if not options.strength_scale:
        yield Fault("strength_scale", "strength_scale = 0 makes a tie of every pair")


def _of_order(options: MappedSource) -> Iterator[Fault]:
    if options.order is not None and not options.position_bias:
        mend = "`truing data report` estimates it"
        yield Fault("order", "order has no effect without a position_bias", mend)
    if not options.position_bias:
        return
    if options.first is None and (options.chosen is None or options.order is None):
        mend = "map `chosen`, `rejected` and `order`, or `first` and `second`"
        yield Fault("position_bias", "position_bias, and nothing says which answer was shown first", mend)
    if options.votes is not None and options.verdict != "share":
        yield Fault(
            "position_bias",
            f'position_bias is that of single votes, and verdict = "{options.verdict}" makes one verdict of them',
            'use verdict = "share"',
        )
    if options.pairs_to_labels:
        yield Fault("position_bias", "position_bias belongs to a pair, and pairs_to_labels leaves none")
