"""What all sources of rows share: the options that say which columns mean what, and which rows are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from truing.fields import (
    ANNOTATOR,
    CHOSEN,
    COMPLETIONS,
    GROUP,
    IDS,
    LABEL,
    MARGIN,
    METADATA,
    MISMATCHED,
    PROMPTS,
    RANK,
    REJECTED,
    SOFT,
    STRATUM,
    Field,
    Fields,
    fields,
)
from truing.stage import Fault, SourceSpec
from truing_data.handing_out import Bootstrap, Shuffle
from truing_data.judged import unjudged

Value = str | int | float | bool

_WITH_PAIRS = "with `chosen` and `rejected` columns"
_OR_JUDGED = "with `first`, `second` and `votes`"
_LABEL_MEND = {
    "pairs": "pairs_to_labels = true labels both sides of a pair",
    "rankings": "leave one of them out",
}
_PAIR_FIELDS: Mapping[str, Field[Any]] = {
    "margin": MARGIN,
    "soft": SOFT,
    "annotator": ANNOTATOR,
    "stratum": STRATUM,
}


class MappedSource(SourceSpec, frozen=True, kw_only=True):
    """What all sources of rows share: which columns mean what, and which rows are used."""

    offers: ClassVar[Mapping[Field[Any], str]] = {
        CHOSEN: f"{_WITH_PAIRS}, {_OR_JUDGED}, or rankings_to_pairs = true",
        REJECTED: f"{_WITH_PAIRS}, {_OR_JUDGED}, or rankings_to_pairs = true",
        LABEL: "with a `label` column, or pairs and pairs_to_labels = true",
        MISMATCHED: "with labels and mismatched = true",
        RANK: "with `completions` and `rank` or `score` columns",
        METADATA: "with columns named in `metadata`",
        **{kind: f"{_WITH_PAIRS} and a `{option}` column" for option, kind in _PAIR_FIELDS.items()},
        SOFT: f'{_WITH_PAIRS} and a `soft` column, or with `votes` and verdict = "share" or "dawid-skene"',
        MARGIN: f"{_WITH_PAIRS} and a `margin` column, with a `strength` column, or with a position_bias",
    }

    prompt: Annotated[
        str | None,
        Meta(description="column of the prompt: text or a list of messages; `prompt` when not given"),
    ] = None
    completion: Annotated[
        str | None,
        Meta(description="column of the demonstration: text or an assistant message; `completion` when not given"),
    ] = None
    chosen: Annotated[
        str | None,
        Meta(
            description="column of the better completion, which makes every row a pair; a whole conversation "
            "brings its prompt along"
        ),
    ] = None
    rejected: Annotated[str | None, Meta(description="column of the worse completion")] = None
    first: Annotated[
        str | None,
        Meta(
            description="column of one of two completions of which `votes` or `strength` say the better; shown first "
            "unless `order` says otherwise"
        ),
    ] = None
    second: Annotated[str | None, Meta(description="column of the other completion")] = None
    votes: Annotated[
        str | list[str] | None,
        Meta(
            description="column of votes on `first` and `second`: a label, or a list of labels, of [annotator, label] "
            "or of objects with these two; or several columns of a label each"
        ),
    ] = None
    favours: Annotated[
        dict[str, Literal["first", "second", "tie"]],
        Meta(
            description="what each label of a vote is for; by itself a label is understood that is first, second, tie, "
            "equal, same, both, or the name of a column"
        ),
    ] = {}
    verdict: Annotated[
        Literal["majority", "share", "dawid-skene"],
        Meta(
            description='what votes come to. "majority": the side with most of them. "share": with the share of votes '
            'as SOFT, a tie half a vote. "dawid-skene": SOFT from a model of how each annotator errs'
        ),
    ] = "majority"
    ties: Annotated[
        Literal["drop", "keep"],
        Meta(
            description="pairs without a better side: left out and counted, or kept with 0.5 as SOFT, for losses that "
            "read it; others would learn from them that the first is better"
        ),
    ] = "drop"
    strength: Annotated[
        str | None,
        Meta(
            description="column of how much better `first` is, as a number or a list whose mean counts; negative when "
            "`second` is, 0 for a tie. It becomes the margin"
        ),
    ] = None
    strength_scale: Annotated[
        float,
        Meta(description="margin per point of `strength`; negative where larger numbers are for `second`"),
    ] = 1.0
    order: Annotated[
        str | None, Meta(description="column that says which completion was shown first: its column's name, 1 or 2")
    ] = None
    position_bias: Annotated[
        float,
        Meta(
            description="log-odds by which being shown first helps, as `truing data report` estimates it; taken from "
            "the margin, so that a loss with margins does not learn it"
        ),
    ] = 0.0
    pairs_to_labels: Annotated[
        bool,
        Meta(description="make two labelled completions of every pair, the chosen desirable, for losses on labels"),
    ] = False
    label: Annotated[
        str | None,
        Meta(description="column that says whether the completion is desirable (true or 1) or not (false or 0)"),
    ] = None
    mismatched: Annotated[
        bool,
        Meta(
            description="add to every prompt a completion of another one, marked as such: what KTO estimates its KL "
            "from. Always the same one, so that the reference is asked once"
        ),
    ] = False
    completions: Annotated[
        str | None, Meta(description="column of a list of two or more completions, which makes every row a ranking")
    ] = None
    rank: Annotated[
        str | None, Meta(description="column of the places of `completions`, the smallest is best; equal ones are tied")
    ] = None
    score: Annotated[
        str | None, Meta(description="column of the scores of `completions`, the largest is best; equal ones are tied")
    ] = None
    rankings_to_pairs: Annotated[
        bool, Meta(description="make of every ranking all pairs of unequal rank, for losses on pairs")
    ] = False
    together: Annotated[
        Annotated[int, Meta(ge=2)] | None,
        Meta(
            description="how many different completions of one prompt a group may hold: pairs in which the same "
            "completions meet each other are put together, and each completion goes through the model once for all its "
            "pairs there; every pair is a group of its own when not given"
        ),
    ] = None
    messages: Annotated[
        str | None,
        Meta(
            description="column of a whole conversation, instead of `prompt`: its last assistant turn is the completion"
        ),
    ] = None
    turns: Annotated[
        Literal["last", "all"],
        Meta(description='assistant turns of `messages` to learn from; "all": each is a group of its own'),
    ] = "last"
    id: Annotated[
        str | None, Meta(description="column of the name of a row; file name and line or row number when not given")
    ] = None
    system: Annotated[
        str | None, Meta(description="system message put before every conversation that does not begin with one")
    ] = None
    chat: Annotated[
        bool,
        Meta(
            description="turn plain text into a user and an assistant message, so that the model's chat template "
            "applies; false: the text as it stands"
        ),
    ] = True
    margin: Annotated[str | None, Meta(description="column that says by how much the chosen completion is better")] = (
        None
    )
    soft: Annotated[
        str | None, Meta(description="column of the probability, 0 to 1, that the chosen completion is better")
    ] = None
    annotator: Annotated[str | None, Meta(description="column that names who compared the pair")] = None
    stratum: Annotated[str | None, Meta(description="column that names the annotator's group of people")] = None
    where: Annotated[
        dict[str, Value], Meta(description="column and value: only rows that are equal in all of them are used")
    ] = {}
    mix: Annotated[
        int | None,
        Meta(
            description="seed of an order the rows are put into once, before `skip` and `limit`, for files sorted by "
            "topic; file order when not given"
        ),
    ] = None
    skip: Annotated[
        int,
        Meta(
            ge=0,
            description="rows left out at the start, after `where`; with `skip` n a source shares no row with a holdout"
            " of `limit` n",
        ),
    ] = 0
    limit: Annotated[
        int | None, Meta(description="how many rows to use, after `where` and `skip`; all when not given")
    ] = None
    bootstrap: Bootstrap = None
    shuffle: Shuffle = True
    metadata: Annotated[
        list[str],
        Meta(description="columns that travel with a prompt: categories of its scores, or what a scorer reads"),
    ] = []
    on_bad: Annotated[
        Literal["fail", "skip"],
        Meta(description="what to do about unusable rows: refuse the data, or leave them out and count them"),
    ] = "fail"

    @property
    def pairs(self) -> bool:
        """Are the rows comparisons?"""
        return any(side is not None for side in (self.chosen, self.rejected, self.first, self.second))

    @property
    def softened(self) -> bool:
        """Do votes or strengths give every pair a probability?"""
        unsure = self.ties == "keep" or (self.votes is not None and self.verdict != "majority")
        return self.first is not None and unsure

    @property
    def labels(self) -> bool:
        """Do groups have labelled completions?"""
        return self.label is not None or self.pairs_to_labels

    @property
    def pair_columns(self) -> Mapping[Field[Any], str]:
        """The optional fields of a pair that the options map, and from which column."""
        return {
            kind: getattr(self, option) for option, kind in _PAIR_FIELDS.items() if getattr(self, option) is not None
        }

    def provides(self) -> Fields:
        """Demonstrations, pairs with whatever else is mapped, labels or rankings."""
        text = fields(IDS, PROMPTS, COMPLETIONS, GROUP, *([METADATA] if self.metadata else []))
        if self.labels:
            return text | fields(LABEL) | (fields(MISMATCHED) if self.mismatched else fields())
        if self.completions is not None:
            return text | (fields(CHOSEN, REJECTED) if self.rankings_to_pairs else fields(RANK))
        if not self.pairs:
            return text
        margin = self.strength is not None or self.position_bias != 0
        judged = (fields(SOFT) if self.softened else fields()) | (fields(MARGIN) if margin else fields())
        return text | fields(CHOSEN, REJECTED, *self.pair_columns) | judged

    def insists(self) -> Fields:
        """That of two answers which are equally good neither counts as the better one."""
        return fields(SOFT) & self.provides() if self.ties == "keep" else fields()

    def problems(self) -> Iterator[Fault]:
        """Options that cannot go together."""
        yield from self._forms()
        yield from self._pair_options()
        yield from unjudged(self)
        yield from self._label_options()
        yield from self._ranking_options()
        if self.limit is not None and self.limit < 1:
            yield Fault("limit", f"limit = {self.limit} leaves no rows", "leave it out to use all of them")

    def _forms(self) -> Iterator[Fault]:
        """A row is one thing: a demonstration, a pair or a ranking."""
        if self.messages is not None:
            for option in ("prompt", "completion", "chosen", "rejected", "first", "second", "completions"):
                if getattr(self, option) is not None:
                    yield Fault(
                        option,
                        f"messages and {option} exclude each other",
                        "`messages` holds prompt and completion alike",
                    )
        elif self.turns == "all":
            yield Fault(
                "turns", "turns is about `messages`, and none is given", "name the column that holds the conversation"
            )
        if self.pairs and self.completion is not None:
            sides = "first and second" if self.first is not None else "chosen and rejected"
            yield Fault("completion", f"completion beside {sides}", "a row is a demonstration or a pair, not both")
        for option in ("completion", "chosen", "rejected", "first", "second"):
            if self.completions is not None and getattr(self, option) is not None:
                yield Fault(option, f"{option} beside completions", "`completions` holds all that a row has")

    def _pair_options(self) -> Iterator[Fault]:
        for sides in (("chosen", "rejected"), ("first", "second")):
            one, other = (getattr(self, side) for side in sides)
            if (one is None) != (other is None):
                given, absent = sides if other is None else sides[::-1]
                mend = f"a pair needs both: name the column of the {absent} completion"
                yield Fault(given, f"{given} without {absent}", mend)
            elif one is not None and one == other:
                yield Fault(sides[1], f'{sides[0]} and {sides[1]} are the same column "{one}"')
        yield from self._gathering()
        for option in _PAIR_FIELDS:
            if getattr(self, option) is None:
                continue
            if not self.pairs:
                what = f"{option} belongs to a pair, and the rows are " + (
                    "rankings" if self.completions is not None else "demonstrations"
                )
                yield Fault(option, what, "map `chosen` and `rejected` too")
            elif self.pairs_to_labels:
                yield Fault(option, f"{option} belongs to a pair, and pairs_to_labels leaves none", "leave one out")

    def _gathering(self) -> Iterator[Fault]:
        if self.together is None:
            return
        if not self.pairs or self.pairs_to_labels:
            what = "together is about pairs, and the rows are none"
            yield Fault("together", what, "map `chosen` and `rejected`, without pairs_to_labels")
        if self.metadata:
            what = "metadata belongs to a row, and together makes one group of many"
            yield Fault("metadata", what, "leave one of them out")

    def _label_options(self) -> Iterator[Fault]:
        if self.pairs_to_labels and not self.pairs:
            yield Fault("pairs_to_labels", "pairs_to_labels without pairs", "map `chosen` and `rejected`")
        if self.label is not None and (self.pairs or self.completions is not None):
            form = "pairs" if self.pairs else "rankings"
            yield Fault("label", f"label is about a single completion, and the rows are {form}", _LABEL_MEND[form])
        if self.label is not None and self.turns == "all":
            yield Fault("label", "label is about one completion, and turns says all", 'use turns = "last"')
        if self.mismatched and not self.labels:
            yield Fault(
                "mismatched",
                "mismatched is for labelled completions, and there are none",
                "map `label`, or set pairs_to_labels = true",
            )

    def _ranking_options(self) -> Iterator[Fault]:
        given = [option for option in ("rank", "score") if getattr(self, option) is not None]
        if self.completions is None:
            for option in (*given, *(["rankings_to_pairs"] if self.rankings_to_pairs else [])):
                yield Fault(option, f"{option} without completions", "name the column that lists the completions")
        elif len(given) != 1:
            what = "completions with both rank and score" if given else "completions without their order"
            yield Fault("completions", what, "name one column: `rank`, smallest is best, or `score`, largest is best")
