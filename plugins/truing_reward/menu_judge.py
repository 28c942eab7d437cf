"""The menu of judges: language models that are asked which answer is better, or how good one is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from truing.errors import did_you_mean
from truing.fields import (
    ANSWERS,
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    LOGPROBS_OLD,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    REJECTED,
    SCORE_PARTS,
    SCORES,
    SOFT,
    Field,
    Fields,
    fields,
)
from truing.stage import AnySpec, Fault, GeneratorSpec, ModelSpec, ScorerSpec
from truing_remote import addresses, options
from truing_reward import judge_prompts as prompts
from truing_texts.constitution import faults

VERDICTS: Field[list[list[dict[str, Any]]]] = Field("verdicts", "group")
"""Everything a judge said of a prompt's completions: what was compared, by which criterion, in which order, how sure it
was, and how many tokens it took."""

_ASKED = fields(IDS, PROMPTS, PROMPT_TOKENS, PROMPT_GROUP)


class JudgeSpec(ScorerSpec, frozen=True, kw_only=True):
    """What is asked of a judge, whoever that is."""

    offers: ClassVar = {
        SCORES: "and a model that judges",
        **dict.fromkeys((CHOSEN, REJECTED, SOFT), 'with form = "pairs" and label_pairs = true'),
    }

    form: Annotated[
        prompts.Form,
        Meta(
            description="pairs: every two completions of a prompt are compared, and a score is the mean probability to "
            "be better than another; answer: each is compared with the answer that came with the prompt; points: each "
            "is rated by itself, and a score is the expected rating, laid out from -1 to 1"
        ),
    ] = "pairs"
    criteria: Annotated[
        list[Annotated[str, Meta(min_length=1)]],
        Meta(
            description="what is judged by: helpful, harmless, honest, or sentences of your own; one is drawn for each "
            "comparison, by the run's seed and the texts. Empty: helpful"
        ),
    ] = []
    constitution: Annotated[
        str,
        Meta(
            description="a file of principles, TOML or Markdown, or pkg:PACKAGE/FILE, of which the `comparison` of "
            "each is judged by in place of `criteria`"
        ),
    ] = ""
    ties: Annotated[bool, Meta(description="let it say that neither is better, which counts half for each")] = False
    points: Annotated[int, Meta(ge=2, le=10, description="the best rating; the worst is 1")] = 5
    label_pairs: Annotated[
        bool,
        Meta(
            description="also hand on each comparison as a pair, with the probability that the better one is better as "
            "`soft`; instead of an [advantage]"
        ),
    ] = False
    clamp: Annotated[
        float,
        Meta(
            ge=0,
            lt=0.5,
            description="how far `soft` of label_pairs is kept from 0 and 1: 0.4 keeps it within 0.4 and 0.6, as "
            "constitutional AI does where a reasoning has made verdicts too sure (arXiv:2212.08073, section 4.1)",
        ),
    ] = 0.0
    template: Annotated[
        str,
        Meta(
            description="what is shown: {prompt}, {first} and {second}, or {text} where form is points, each on a line "
            'of its own, and {criterion}; "": one that comes with truing'
        ),
    ] = ""
    question: Annotated[
        str, Meta(description='what is asked behind it; it says what the verdicts are called. "": by the form')
    ] = ""
    think: Annotated[str, Meta(description='what is asked before a reasoning; "": by the form')] = ""
    least_mass: Annotated[
        float,
        Meta(ge=0, le=1, description="a verdict is missing where all that it could be has less probability together"),
    ] = 0.5
    most_missing: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="the run ends when a larger share of all verdicts is missing, from the first 20 on. Until then "
            "one that is missing says nothing for or against",
        ),
    ] = 0.2

    def requires(self) -> Fields:
        """Texts."""
        needs = fields(IDS, PROMPTS, COMPLETIONS, GROUP)
        return needs | fields(ANSWERS) if self.form == "answer" else needs

    def provides(self) -> Fields:
        """Scores, what is reported of them, every verdict, and pairs if they are asked for."""
        given = fields(SCORES, SCORE_PARTS, VERDICTS)
        return given | fields(CHOSEN, REJECTED, SOFT) if self.label_pairs else given

    def unit(self) -> str:
        """Probabilities to win, or points."""
        return "points from -1 to 1" if self.form == "points" else "probability to be better"

    @property
    def labels(self) -> tuple[str, ...]:
        """What a verdict may be."""
        return prompts.labels_of(self.form, self.ties, self.points)

    def problems(self) -> Iterator[Fault]:
        """Options of another form, criteria nobody knows, and templates with a wrong place."""
        if self.form == "points" and self.ties:
            yield Fault("ties", "one answer by itself cannot be tied", 'take it out, or write form = "pairs"')
        if self.form != "points" and self.points != 5:
            yield Fault("points", f'points has no effect with form = "{self.form}"', 'write form = "points"')
        if self.form != "pairs" and self.label_pairs:
            yield Fault("label_pairs", f'form = "{self.form}" compares no two completions', 'write form = "pairs"')
        if self.clamp and not self.label_pairs:
            yield Fault("clamp", "clamp is of the soft labels of pairs", "write label_pairs = true, or take it out")
        for criterion in self.criteria:
            if criterion not in prompts.CRITERIA and len(criterion.split()) == 1:
                mend = did_you_mean(criterion, prompts.CRITERIA)
                yield Fault("criteria", f'"{criterion}" is no criterion that is known, and no sentence', mend)
        if self.constitution:
            yield from faults(self.constitution, compared=True)
            if self.criteria:
                yield Fault("criteria", "the constitution says what is judged by", "take one of them out")
        if len(set(self.criteria)) < len(self.criteria):
            yield Fault("criteria", "a criterion is named twice, so it is drawn more often", "name each once")
        template = self.template or prompts.TEMPLATES[self.form]
        for what, mend in prompts.faults(template, self.form, bool(self.criteria or self.constitution)):
            yield Fault("template" if self.template else "criteria", what, mend)
        absent = [label for label in (self.labels[0], self.labels[-1]) if label not in self.question]
        if self.question and absent:
            yield Fault("question", f"it does not say that a verdict is called {absent[0]}", f"name {absent[0]} in it")


class Judge(JudgeSpec, frozen=True, kw_only=True):
    """A language model in this process as a judge (arXiv:2309.00267): which of two answers is better, asked in both
    orders, or how good one is.

    Nothing is sampled: the verdict is the probability of each of the words it may be. With `reasoning` it first writes
    what speaks for and against, several times if its `samples` say so, and the verdicts behind them are averaged.
    Written as `[scorer.model] use = "causal-lm"`, and `[scorer.reasoning] use = "engine"`.

    How far it is to be trusted is reported step by step: consistency, the share of comparisons in which both orders
    hold the same answer to be better; first_choice, how often the answer shown first wins; position_bias, in log-odds;
    mass, the probability of all verdicts together; missing, the share of verdicts that were none.
    """

    name: ClassVar[str] = "judge"
    target: ClassVar[str] = "truing_reward.judge:judge"

    model: Annotated[ModelSpec, Meta(description="the model that judges; it learns nothing")]
    reasoning: Annotated[
        GeneratorSpec | None, Meta(description="who writes a reasoning before each verdict; without: nobody")
    ] = None
    prefix: Annotated[
        str | None,
        Meta(
            description="what is put into its mouth before the verdict, which is then nearly all that can follow; when "
            'not given "Answer" or "Rating:", by the form; "": nothing'
        ),
    ] = None
    max_tokens: Annotated[
        int, Meta(ge=16, description="longest question, in tokens; to a longer one the verdict is missing")
    ] = 2048

    def problems(self) -> Iterator[Fault]:
        """A model that says nothing, and a reasoning that needs more than a question."""
        yield from JudgeSpec.problems(self)
        if LOGPROBS_OLD not in self.model.provides():
            what = f'a judge answers in words, and model "{self.model.name}" gives no log-probabilities'
            yield Fault("model", what, 'write use = "causal-lm"')
        if self.reasoning:
            yield from self.reasoning.one_turn("reasoning")
        if self.reasoning and (lacking := self.reasoning.requires() - _ASKED):
            needs = ", ".join(sorted(map(str, lacking)))
            yield Fault("reasoning", f'generator "{self.reasoning.name}" needs {needs}', 'write use = "engine"')
        if self.think and not self.reasoning:
            yield Fault("think", "nobody is asked to think: there is no [scorer.reasoning]", "add it, or take it out")


class OpenAiJudge(JudgeSpec, frozen=True, kw_only=True):
    """A language model behind a server that speaks the OpenAI protocol, as a judge; see `judge` for what it is asked.

    The probabilities of a verdict are those of the first word of its answer, as far as the server tells them. Where it
    tells none, the answer itself counts, as 0 or 1, and a notice says so. A server encodes text as it likes, so what
    looks like a mark of a chat template in a text is broken up before it is sent.
    """

    name: ClassVar[str] = "openai-judge"
    target: ClassVar[str] = "truing_reward.judge:openai_judge"

    url: options.Url = options.HERE
    model: options.Served = ""
    key_env: options.KeyEnv = ""
    reasonings: Annotated[
        int, Meta(ge=0, description="how often it writes a reasoning before its verdict; the verdicts are averaged")
    ] = 0
    reasoning_tokens: Annotated[int, Meta(ge=1, description="longest reasoning")] = 512
    temperature: Annotated[float, Meta(ge=0, description="of reasonings; verdicts are not sampled")] = 1.0
    logprobs: Annotated[
        bool, Meta(description="ask for the probabilities of a verdict; false: its text counts, as 0 or 1")
    ] = True
    top_logprobs: Annotated[
        int, Meta(ge=2, le=20, description="of how many words the server is to tell the probability")
    ] = 20
    concurrency: options.Concurrency = 32
    retries: options.Retries = 5
    timeout: options.Timeout = 600.0

    def problems(self) -> Iterator[Fault]:
        """What any judge can get wrong, an address that is none, and options of a reasoning that is not asked for."""
        yield from JudgeSpec.problems(self)
        yield from addresses.problems(self.url, self.key_env)
        if self.points > 9:
            yield Fault("points", "a server tells how likely one word is, and 10 may be two", "at most points = 9")
        given = {"think": bool(self.think), "reasoning_tokens": self.reasoning_tokens != 512}
        for option in (name for name, is_given in given.items() if is_given and not self.reasonings):
            yield Fault(option, f"{option} has no effect with reasonings = 0", "set reasonings = 1, or take it out")
        if not self.logprobs and self.top_logprobs != 20:
            yield Fault("top_logprobs", "top_logprobs has no effect with logprobs = false", "take one of them out")


JUDGES: list[type[AnySpec]] = [Judge, OpenAiJudge]
