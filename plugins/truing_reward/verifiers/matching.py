"""Judges of texts and numbers: plain comparisons, fast enough for this process."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from truing_reward.menu_verifiers import Match, Number
from truing_reward.verifiers import reading
from truing_reward.verifiers.verdict import Judge, Verdict

_SIGNS = re.compile(r"[^\w\s]|_")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)


def match(spec: Match) -> Judge:
    """Is it the same text?"""

    def judge(text: str, truth: str) -> Verdict:
        said, known = _taken(text, spec), _taken(truth, spec)
        if said is None:
            return Verdict(0.0, "unread")
        # A known answer may stand there bare where completions have to put theirs into a box.
        said, known = _plain(said, spec), _plain(truth if known is None else known, spec)
        if spec.close:
            return Verdict(SequenceMatcher(None, said, known, autojunk=False).ratio())
        return Verdict(float(said == known))

    return judge


def number(spec: Number) -> Judge:
    """Is it the same number?"""

    def judge(text: str, truth: str) -> Verdict:
        known = reading.number(reading.behind(truth, spec.after))
        if known is None:
            return Verdict(0.0, "unknown")
        said = reading.number(reading.behind(text, spec.after))
        if said is None:
            return Verdict(0.0, "unread")
        return Verdict(float(abs(said - known) <= spec.tolerance * abs(known)))

    return judge


def _taken(text: str, spec: Match) -> str | None:
    text = reading.behind(text, spec.after)
    if spec.take == "boxed":
        return reading.boxed(text)
    return reading.option(text) if spec.take == "option" else text


def _plain(text: str, spec: Match) -> str:
    if "case" in spec.ignore:
        text = text.casefold()
    if "punctuation" in spec.ignore:
        text = _SIGNS.sub("", text)
    if "articles" in spec.ignore:
        text = _ARTICLES.sub("", text)
    if "blanks" in spec.ignore:
        text = " ".join(text.split())
    return text.strip()
