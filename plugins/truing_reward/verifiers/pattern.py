"""The judge of a completion's form by a regular expression. Some patterns take ages on some texts: hence a worker."""

from __future__ import annotations

import re
from typing import Any

from truing_reward.verifiers.verdict import Judge, Verdict


def prepare(options: dict[str, Any]) -> Judge:
    """The judge of a `regex` spec's options."""
    flags = re.NOFLAG
    for name in options["flags"]:
        flags |= re.RegexFlag[name.upper()]
    pattern = re.compile(options["pattern"], flags)
    find = pattern.fullmatch if options["whole"] else pattern.search

    def judge(text: str, truth: object) -> Verdict:
        return Verdict(float((find(text) is not None) != options["absent"]))

    return judge
