"""The judge as a scorer: who is compared with whom, by which criterion, and what the verdicts come to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any, NamedTuple

import torch

from truing.errors import Problem, UserError
from truing.events import Notice
from truing.fields import (
    ANSWERS,
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    PROMPTS,
    REJECTED,
    SCORE_PARTS,
    SCORES,
    SOFT,
    Batch,
    Field,
)
from truing.run import Run
from truing.stage import Scorer
from truing_reward import judge_prompts as prompts, menu_judge as menu
from truing_reward.judge_asking import Asker, InProcess, Question
from truing_reward.judge_verdicts import GIVEN, Comparison, Rating, Verdict, means, points_of, win_rates
from truing_texts.constitution import principles

_ENOUGH = 20
"""verdicts that are asked for before it matters how many are missing"""


class Found(NamedTuple):
    """What was judged. told: of each completion what is reported of each of its verdicts; rows: of each group all that
    was said."""

    values: Mapping[Field[Any], Any]
    told: Sequence[Sequence[Mapping[str, float]]]
    rows: list[list[dict[str, Any]]]


def judge(spec: menu.Judge, run: Run) -> Scorer:
    """The scorer of a `judge` spec."""
    return _judging(spec, run, InProcess(spec, run))


def openai_judge(spec: menu.OpenAiJudge, run: Run) -> Scorer:
    """The scorer of an `openai-judge` spec. Raises UserError where the package that asks servers is missing."""
    from truing_reward.judge_server import AtServer

    return _judging(spec, run, AtServer(spec, run))


def _judging(spec: menu.JudgeSpec, run: Run, asker: Asker) -> Judging:
    return Rater(spec, run, asker) if spec.form == "points" else Comparer(spec, run, asker)


class Judging(ABC):
    """Scores completions by what a judge says of them. asked: verdicts so far; missing: those of them that were none,
    by why."""

    def __init__(self, spec: menu.JudgeSpec, run: Run, asker: Asker) -> None:
        self.asked = 0
        self.missing: Counter[str] = Counter()
        self.spec = spec
        self._run = run
        self._asker = asker
        self._template = spec.template or prompts.TEMPLATES[spec.form]
        self._criteria = [prompts.CRITERIA.get(each, each) for each in spec.criteria or ("helpful",)]
        self._principles: dict[str, str] = {}
        if spec.constitution:
            found = principles(spec.constitution, compared=True)
            self._criteria = [each.comparison for each in found]
            self._principles = {each.comparison: each.id for each in found}
        self._told = 0

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES and SCORE_PARTS [seq] and VERDICTS [group]; with `label_pairs` CHOSEN, REJECTED and
        SOFT [pair]. Raises UserError where too many verdicts are missing, and what asking raises."""
        members: list[list[int]] = [[] for _ in batch[IDS]]
        for seq, group in enumerate(batch[GROUP].tolist()):
            members[group].append(seq)
        values, told, rows = await self.judged(batch, members)
        return batch.put_all({**values, SCORE_PARTS: [means(each) for each in told], menu.VERDICTS: rows})

    @abstractmethod
    async def judged(self, batch: Batch, members: Sequence[Sequence[int]]) -> Found:
        """What the judge says of the completions of each group."""
        ...

    def question(self, name: str, criterion: str, texts: Mapping[str, str]) -> Question:
        """A question about some texts."""
        return Question(name, prompts.shown(self._template, texts, criterion))

    async def verdicts(self, questions: Sequence[Question]) -> list[Verdict]:
        """What the judge says to each question. Raises UserError where too many verdicts so far are missing."""
        found = await self._asker.ask(questions) if questions else []
        self.asked += len(found)
        self.missing.update(each.missing for each in found if not each.chances)
        count = self.missing.total()
        if self.asked >= _ENOUGH and count > self.spec.most_missing * self.asked:
            what = f"{self._lacking(found)}; at most {self.spec.most_missing:.0%} may be"
            raise UserError(Problem(f'[scorer] use = "{self.spec.name}"', what, _MEND))
        if count and count >= 2 * self._told:
            self._told = count
            self._run.bus.publish(Notice(text=f"{self.spec.name}: {self._lacking(found)}", phase=self._run.phase))
        return found

    def criterion(self, *what: str) -> str:
        """The criterion for these texts, in whatever order they are shown."""
        return self._criteria[self._run.seed_for("criterion", *sorted(what)) % len(self._criteria)]

    def kept(self, said: Comparison | Rating, *where: Any) -> dict[str, Any]:
        """What is kept of a comparison or a rating: what it tells itself, and the principle it was made by."""
        named = self._principles.get(said.criterion)
        return {**({"principle": named} if named else {}), **said.row(*where)}

    def _lacking(self, last: Sequence[Verdict]) -> str:
        """How many verdicts are missing, why, and what was said in place of one."""
        why = ", ".join(f"{count:,} {_WHY[name]}" for name, count in self.missing.items())
        text = f"{self.missing.total():,} of {self.asked:,} verdicts are missing: {why}"
        instead = next((each.said for each in last if not each.chances and each.said), "")
        return f'{text}, as in "{instead}"' if instead else text


_WHY = {
    "unclear": "where it would rather have said something else",
    "long": "to questions longer than max_tokens",
}
_MEND = "ask more plainly with `question`, or another model; or say with `most_missing` how many may be"


class Meeting(NamedTuple):
    """Two answers that are to be compared: their places in the batch, or GIVEN, by what, and the questions of both
    orders."""

    first: int
    second: int
    criterion: str
    forward: Question
    backward: Question


class Comparer(Judging):
    """Compares completions, each with the others of its group or with the answer that came with the prompt."""

    async def judged(self, batch: Batch, members: Sequence[Sequence[int]]) -> Found:
        """SCORES [seq]: the mean probability to be better, one half where there is no verdict."""
        meetings = [self._meetings(batch, group, mine) for group, mine in enumerate(members)]
        questions = [each for some in meetings for meeting in some for each in (meeting.forward, meeting.backward)]
        found = iter(await self.verdicts(questions))
        compared = [[Comparison(*meeting[:3], next(found), next(found)) for meeting in some] for some in meetings]
        scores = torch.empty(len(batch[GROUP]), dtype=torch.float32)
        told: list[list[Mapping[str, float]]] = [[] for _ in batch[GROUP]]
        for some, mine in zip(compared, members, strict=True):
            for seq, rate in win_rates(some, mine).items():
                scores[seq] = rate
            for each in some:
                for seq in {each.first, each.second} - {GIVEN}:
                    told[seq].append(each.told())
        rows = [[self.kept(each, mine) for each in some] for some, mine in zip(compared, members, strict=True)]
        every = [each for some in compared for each in some]
        pairs = _pairs(every, 1 - self.spec.clamp) if self.spec.label_pairs else {}
        return Found({SCORES: scores, **pairs}, told, rows)

    def _meetings(self, batch: Batch, group: int, mine: Sequence[int]) -> list[Meeting]:
        """Who of a group is compared with whom. Answers that say the same are not compared. Raises UserError for a
        completion without anything to compare it with."""
        name, prompt = batch[IDS][group], prompts.conversation(batch[PROMPTS][group])
        texts = {seq: prompts.said(batch[COMPLETIONS][seq]) for seq in mine}
        called = {seq: str(place) for place, seq in enumerate(mine)}
        if self.spec.form == "answer":
            texts[GIVEN], called[GIVEN] = prompts.said(batch[ANSWERS][group]), "answer"
            couples = [(seq, GIVEN) for seq in mine]
        else:
            couples = list(combinations(mine, 2))
            if len(mine) == 1:
                mend = 'sample two or more completions of a prompt, or write form = "points"'
                where = f'[scorer] use = "{self.spec.name}"'
                raise UserError(Problem(where, f"{name} has one completion, and nothing to compare it with", mend))

        def question(first: int, second: int, criterion: str) -> Question:
            shown = {"prompt": prompt, "first": texts[first], "second": texts[second]}
            return self.question(f"{name}/{called[first]}>{called[second]}", criterion, shown)

        found: list[Meeting] = []
        for one, other in couples:
            if texts[one] != texts[other]:
                by = self.criterion(name, texts[one], texts[other])
                found.append(Meeting(one, other, by, question(one, other, by), question(other, one, by)))
        return found


class Rater(Judging):
    """Rates every completion by itself."""

    async def judged(self, batch: Batch, members: Sequence[Sequence[int]]) -> Found:
        """SCORES [seq]: expected points, laid out from -1 to 1. One that is missing is the mean of the group's others,
        which says nothing for or against; 0, the middle, where there are none."""
        questions, by = list[Question](), list[str]()
        for group, mine in enumerate(members):
            name, prompt = batch[IDS][group], prompts.conversation(batch[PROMPTS][group])
            # Completions of one prompt are rated by one criterion: else their ratings could not be compared.
            by.append(self.criterion(name))
            for place, seq in enumerate(mine):
                shown = {"prompt": prompt, "text": prompts.said(batch[COMPLETIONS][seq])}
                questions.append(self.question(f"{name}/{place}", by[group], shown))
        found = iter(await self.verdicts(questions))
        rated = {seq: Rating(by[group], next(found)) for group, mine in enumerate(members) for seq in mine}
        scores = torch.empty(len(rated), dtype=torch.float32)
        for mine in members:
            known = {seq: points_of(rated[seq].verdict.chances) for seq in mine if rated[seq].verdict.chances}
            middle = fmean(known.values()) if known else 0.0
            for seq in mine:
                scores[seq] = known.get(seq, middle)
        told = [[rated[seq].told()] for seq in range(len(rated))]
        rows = [[self.kept(rated[seq], place) for place, seq in enumerate(mine)] for mine in members]
        return Found({SCORES: scores}, told, rows)


def _pairs(compared: Sequence[Comparison], most: float) -> dict[Field[Any], Any]:
    """A pair of each comparison that has a verdict: CHOSEN is the likelier one to be better, SOFT how likely it is, and
    that at most `most`."""
    known = [each for each in compared if each.known]
    better = [(each.first, each.second) if each.prefer >= 0.5 else (each.second, each.first) for each in known]
    return {
        CHOSEN: torch.tensor([chosen for chosen, _ in better], dtype=torch.int64),
        REJECTED: torch.tensor([rejected for _, rejected in better], dtype=torch.int64),
        SOFT: torch.tensor([min(most, max(each.prefer, 1 - each.prefer)) for each in known], dtype=torch.float32),
    }
