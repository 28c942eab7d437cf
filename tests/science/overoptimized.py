"""Best of n of recipes/overoptimization.toml, with several of what it has one of: no claim hangs on one proxy's luck.

Gold is told that long is bad, too: else that hangs on the seed, and gold falls with some and with others does not.

Eight proxies of few comparisons and four of many, each of comparisons that no other has seen, and ten members of
ensembles, each pretrained apart and told a quarter of its comparisons the wrong way round. All of them, and gold, score
the same samples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

LONG = """use = "mix"

[phase.label.scorer.of.close]
use = "match"
close = true

[phase.label.scorer.of.long]
use = "overlong"
longest = 16
buffer = 1"""
RECIPE = Path(__file__).parents[2] / "recipes" / "overoptimization.toml"
PROXIES, MEMBERS, NOISE = {"few": 8, "many": 4}, 10, 0.25
_MORE = 2700
_PROMPTS = 80


def recipe(seed: int) -> str:
    """One run."""
    shipped = dict(_phases(RECIPE.read_text(encoding="utf-8")))
    shipped["label"] = _changed(shipped["label"], 'use = "match"\nclose = true', LONG)
    shipped["few"] = _changed(shipped["few"], "limit = 240", "limit = 120")
    made = {name: text for name, text in shipped.items() if name != "best" and not name.startswith("rl-")}
    made[""] = _changed(_changed(made[""], '[[observer]]\nuse = "mlflow"\n\n', ""), "seed = 0", f"seed = {seed}")
    fresh = _changed(shipped["compare"], "skip = 1600\nsize = 1300", f"skip = 4000\nsize = {_MORE}")
    made["more"] = _renamed(fresh, "compare", "more")
    for size, count in PROXIES.items():
        for at in range(2, count + 1):
            others = f'path = "@more"\nform = "pairs"\nskip = {(at - 2) * _MORE // (count - 1)}'
            text = _changed(shipped[size], 'path = "@compare"\nform = "pairs"\nskip = 100', others)
            made[f"{size}-{at}"] = _renamed(text, size, f"{size}-{at}")
    for at in range(1, MEMBERS + 1):
        made[f"small-{at}"] = _renamed(shipped["small"], "small", f"small-{at}")
        made[f"member-{at}"] = _member(shipped["few"], at)
    asked = _changed(shipped["best"], "skip = 2900\nsize = 40", f"skip = 6900\nsize = {_PROMPTS}")
    asked = _changed(asked, "samples = 256\nseats = 256", "samples = 512\nseats = 512")
    asked = _changed(asked, "batch = 8", "batch = 4")
    made["best"] = _changed(asked, "[phase.best.loop]", _scorers() + "\n[phase.best.loop]")
    return "\n\n".join(made.values()) + "\n"


def _phases(text: str) -> Mapping[str, str]:
    """The tables of each phase, and under "" what belongs to the whole."""
    found: dict[str, list[str]] = {}
    for table in text.strip().split("\n\n"):
        phase = re.match(r"\[+phase\.([\w-]+)\.", table)
        found.setdefault(phase[1] if phase else "", []).append(table)
    return {name: "\n\n".join(tables) for name, tables in found.items()}


def _changed(text: str, old: str, new: str) -> str:
    assert old in text, f"the recipe no longer says {old!r}"
    return text.replace(old, new)


def _renamed(text: str, old: str, new: str) -> str:
    return _changed(text, f"phase.{old}.", f"phase.{new}.")


def _member(few: str, at: int) -> str:
    """A proxy pretrained apart, of a bootstrap sample of 240 comparisons, a quarter of which are turned round, the same
    ones for all members."""
    text = _changed(few, "limit = 120", f"limit = 240\nbootstrap = {at}\nnoise = {NOISE}")
    text = _changed(text, "limit = 100", f"limit = 100\nnoise = {NOISE}")
    return _renamed(_changed(text, "@small", f"@small-{at}"), "few", f"member-{at}")


def _scorers() -> str:
    """Every proxy and member, and the worst case of all members, beside gold, `few` and `many`."""
    names = [f"{size}-{at}" for size, count in PROXIES.items() for at in range(2, count + 1)]
    names += [f"member-{at}" for at in range(1, MEMBERS + 1)]
    text = "\n".join(_scorer(f"[phase.best.scorer.of.{name}]", name) for name in names)
    text += '\n[phase.best.scorer.of.wco]\nuse = "ensemble"\nobjective = "wco"\n\n'
    members = [_scorer("[[phase.best.scorer.of.wco.members]]", f"member-{at}") for at in range(1, MEMBERS + 1)]
    return text + "\n".join(members)


def _scorer(table: str, path: str) -> str:
    return f'{table}\nuse = "reward-model"\npath = "@{path}"\nscale = "normalised"\n'
