"""Categories in sections, as RewardBench adds them up (arXiv:2403.13787)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from truing_evaluate.shapes import Section, Sections

WEIGHTS: Mapping[str, Mapping[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 250,
        "xstest-should-respond": 154,
        "donotanswer": 136,
    },
    "Reasoning": {
        # 447 comparisons, which count as many as all of the code.
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
"""The subsets of each section and how much each counts in it."""


def rewardbench(accuracy: Mapping[str, float]) -> Sections:
    """RewardBench's table, of strict accuracies by subset. Subsets that are not there count nothing; the prior sets of
    its leaderboard are no part of it."""
    weights = {
        name: {subset: weight for subset, weight in subsets.items() if subset in accuracy}
        for name, subsets in WEIGHTS.items()
    }
    lacking = [subset for subsets in WEIGHTS.values() for subset in subsets if subset not in accuracy]
    how = "RewardBench's: its own counts, math-prm as much as all code; a plain mean over sections"
    return _added(accuracy, {name: some for name, some in weights.items() if some}, how, lacking)


def pooled(accuracy: Mapping[str, float], pairs: Mapping[str, int], of: Mapping[str, Sequence[str]]) -> Sections:
    """Sections of categories, each weighted by its pairs. accuracy, pairs: by category; of: categories by section."""
    weights = {name: {category: pairs[category] for category in some} for name, some in of.items()}
    return _added(accuracy, weights, "by pairs within a section; a plain mean over sections", [])


def _added(
    accuracy: Mapping[str, float], weights: Mapping[str, Mapping[str, int]], how: str, lacking: list[str]
) -> Sections:
    sections = [
        Section(
            name=name,
            accuracy=sum(accuracy[key] * weight for key, weight in some.items()) / sum(some.values()),
            weights={key: float(weight) for key, weight in some.items()},
        )
        for name, some in weights.items()
    ]
    mean = sum(section.accuracy for section in sections) / len(sections)
    return Sections(weighting=how, sections=sections, mean=mean, lacking=lacking)
