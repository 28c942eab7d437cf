"""What travels: typed fields, the immutable batch that carries them, and the vocabulary all stages share.

The unit is a **group**: one prompt and its completions (a demonstration, a chosen and a rejected answer, K ranked ones,
G rollouts). On a batch every field is flat: no padding, no masks. `dims` says along what a field runs:

    group         one entry per prompt
    seq           one per completion; `GROUP` says of which prompt
    token         completion tokens of all completions laid end to end; `SEQ` says of which completion
    prompt_token  prompt tokens of all groups laid end to end; `PROMPT_GROUP` says of which prompt
    pair          one per comparison; `CHOSEN` and `REJECTED` say which completions
    step          one per reasoning step that is judged; `STEP_SEQ` says of which completion
    heard         tokens that an environment put between those of a completion; `HEARD_BEFORE` says in front of which

A field whose values are positions along another dim says so with `into`, so a batch can be cut and joined by anybody
who knows only this table (`truing_tensor.groups`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NotRequired, TypedDict, TypeVar

import msgspec

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Field(Generic[T]):
    """A typed key of a batch: `batch[LOGPROBS]` is a Tensor to the type checker."""

    name: str
    dims: str = ""
    dtype: str = ""
    into: str = ""

    def __str__(self) -> str:
        return f"`{self.name}`"


Fields = frozenset[Field[Any]]


def fields(*some: Field[Any]) -> Fields:
    """The set of these fields."""
    return frozenset(some)


class Batch(Mapping[Field[Any], Any]):
    """An immutable bag of fields. Every change makes a new batch that shares what did not change."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[Field[Any], Any] | None = None) -> None:
        self._values = dict(values or {})

    def __getitem__(self, key: Field[T]) -> T:
        """The value of a field. Raises KeyError naming what the batch has."""
        if key not in self._values:
            raise KeyError(f"this batch has no {key}; it has {', '.join(sorted(f.name for f in self._values))}")
        return self._values[key]

    def __iter__(self) -> Iterator[Field[Any]]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def put(self, key: Field[T], value: T) -> Batch:
        """This batch with one field set."""
        return Batch({**self._values, key: value})

    def put_all(self, values: Mapping[Field[Any], Any]) -> Batch:
        """This batch with all of these fields set."""
        return Batch({**self._values, **values})

    def only(self, some: Fields) -> Batch:
        """This batch with no more than these fields: what a stage is handed is what it declared."""
        return Batch({key: value for key, value in self._values.items() if key in some})

    def __repr__(self) -> str:
        return f"Batch({', '.join(sorted(f'{f.name}[{f.dims}]' for f in self._values))})"


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str
    name: NotRequired[str]


Text = str | list[Message]
"""Plain text, or the turns of a conversation that the model's chat template will lay out."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt and its completions as a source reads them, before any tokenizer.

    pairs: (better, worse) positions in `completions`. extra: further fields, each a list along its own dims.
    """

    id: str
    prompt: Text
    completions: list[Text]
    pairs: list[tuple[int, int]] = []
    extra: dict[Field[Any], list[Any]] = {}


IDS: Field[list[str]] = Field("ids", "group")
PROMPTS: Field[list[Text]] = Field("prompts", "group")
COMPLETIONS: Field[list[Text]] = Field("completions", "seq")
ANSWERS: Field[list[Text]] = Field("answers", "group")
"""The completion a prompt came with, where others are sampled: what a verifier compares with."""
METADATA: Field[list[dict[str, Any]]] = Field("metadata", "group")
"""What a source knows of a prompt beside its text, for a verifier that needs more than an answer."""
SEEDS: Field[list[int]] = Field("seeds", "group")
"""What the samples of a prompt are drawn from, with its id and the number of each: the loop sets it before sampling,
from the run's seed and from how many groups the phase had read, so neither a worker nor the time of day has a say."""
SAMPLES: Field[int] = Field("samples")
"""How many completions of each prompt are asked for, where it is another number than a generator was made for."""
TEMPERATURE: Field[float] = Field("temperature")
"""At which temperature they are to be sampled, where it is another than a generator was made for."""
GROUP: Field[Tensor] = Field("group", "seq", "int64", into="group")
CHOSEN: Field[Tensor] = Field("chosen", "pair", "int64", into="seq")
REJECTED: Field[Tensor] = Field("rejected", "pair", "int64", into="seq")

PROMPT_TOKENS: Field[Tensor] = Field("prompt_tokens", "prompt_token", "int64")
PROMPT_GROUP: Field[Tensor] = Field("prompt_group", "prompt_token", "int64", into="group")
TOKENS: Field[Tensor] = Field("tokens", "token", "int64")
SEQ: Field[Tensor] = Field("seq", "token", "int64", into="seq")

LOGPROBS: Field[Tensor] = Field("logprobs", "token", "float32")
LOGPROBS_REF: Field[Tensor] = Field("logprobs_ref", "token", "float32")
LOGPROBS_OLD: Field[Tensor] = Field("logprobs_old", "token", "float32")
"""Under the model that wrote the completion, all of its vocabulary at temperature 1."""
LOGPROBS_SAMPLED: Field[Tensor] = Field("logprobs_sampled", "token", "float32")
"""Under the distribution the token was drawn from: after temperature, top-k, top-p and min-p."""
LOGPROBS_PROXIMAL: Field[Tensor] = Field("logprobs_proximal", "token", "float32")
"""Under the model as it is when learning from a batch begins, whatever version wrote the completion."""
ENTROPY: Field[Tensor] = Field("entropy", "token", "float32")
COLLISION_ENTROPY: Field[Tensor] = Field("collision_entropy", "token", "float32")
"""Minus the log of the sum of the squared probabilities of all tokens: of how likely two draws would agree. No gradient
passes through it."""
TEACHER_DIVERGENCE: Field[Tensor] = Field("teacher_divergence", "token", "float32")
"""How far the model's distribution of the next token is from its teacher's, over all of the vocabulary, in nats."""
VALUES: Field[Tensor] = Field("values", "token", "float32")
"""What reward is still to come, as the model expects it before the token is written."""
VALUES_OLD: Field[Tensor] = Field("values_old", "token", "float32")
"""The values when learning from a batch begins."""
RETURNS: Field[Tensor] = Field("returns", "token", "float32")
"""What values should have been: the reward that came, as an estimator counts it."""
ADVANTAGES: Field[Tensor] = Field("advantages", "token", "float32")
SCORES: Field[Tensor] = Field("scores", "seq", "float32")
MEMBER_SCORES: Field[Tensor] = Field("member_scores", "seq", "float32")
"""[seq, member]: what each member of an ensemble says of a completion."""
SCORES_STD: Field[Tensor] = Field("scores_std", "seq", "float32")
"""How far the members of an ensemble are apart on a completion: their standard deviation."""
TRAITS: Field[Tensor] = Field("traits", "seq", "float32")
"""[seq, trait]: what a reward is made of. The first is what everybody sees in a completion, the others are what people
care for more or less."""
TASTES: Field[Tensor] = Field("tastes", "pair", "float32")
"""[pair, trait]: how much who compared a pair cares for each trait, 1 for the first. Their product is the reward."""
NORMAL_SCORES: Field[Tensor] = Field("normal_scores", "seq", "float32")
"""[seq, 2]: of a reward that differs from one person to the next, its mean, and what softplus makes its standard
deviation of."""
SCALE: Field[Any] = Field("scale")
"""What the scores of a reward model were on its holdout: kept beside its weights, on no batch."""
SCORE_PARTS: Field[list[dict[str, float]]] = Field("score_parts", "seq")
"""What each of several scorers said of a completion, by its name; or numbers by which to trust what one said. What is
not there for a completion is not known of it."""
STEP_SCORES: Field[Tensor] = Field("step_scores", "step", "float32")
"""Log-odds that a step is right."""
STEP_LOGITS: Field[Tensor] = Field("step_logits", "step", "float32")
"""[step, 3]: logits of a step being wrong, neutral, right."""
FINISH: Field[list[str]] = Field("finish", "seq")
"""Why a completion ended: `end` (its end token), `stop` (a stop string) or `length`; of several turns also `turns`, the
most there may be, or `heard`, more than there was room for."""
TURNS: Field[Tensor] = Field("turns", "seq", "int64")
"""How often the model spoke in a completion; an environment answered in between."""
HEARD: Field[Tensor] = Field("heard", "heard", "int64")
"""What an environment said, as tokens: the model reads them, and they are none of its own. Nothing that runs along
`token` has an entry for them, so no loss, estimate or length ever counts one."""
HEARD_BEFORE: Field[Tensor] = Field("heard_before", "heard", "int64", into="token")
"""In front of which of the model's own tokens each stands."""
EARNED: Field[Tensor] = Field("earned", "seq", "float32")
"""What an environment gave for a completion, the rewards of its turns added up."""
KL_COEFFICIENT: Field[float] = Field("kl_coefficient")
"""What a nat of KL divergence from the reference costs in this step, where a controller sets it."""
VERSION: Field[Tensor] = Field("version", "seq", "int64")
"""The version of the weights under which the first token of a completion was drawn."""
OPPONENT: Field[Tensor] = Field("opponent", "seq", "int64")
"""1: a completion that the opponent wrote, 0: one that the policy wrote."""

LABEL: Field[Tensor] = Field("label", "seq", "int64")
"""1: a desirable completion, 0: an undesirable one."""
MISMATCHED: Field[Tensor] = Field("mismatched", "seq", "int64")
"""1: a completion that was written for another prompt, 0: one for its own."""
RANK: Field[Tensor] = Field("rank", "seq", "int64")
"""Place of a completion among those of its group, the best is 0; completions of equal rank are tied."""

SOFT: Field[Tensor] = Field("soft", "pair", "float32")
"""Probability that the first of a pair is the better one: a vote share, a labeler's belief."""
MARGIN: Field[Tensor] = Field("margin", "pair", "float32")
"""By how much the first is better, in units of reward."""
ANNOTATOR: Field[list[str]] = Field("annotator", "pair")
STRATUM: Field[list[str]] = Field("stratum", "pair")
"""The group of people an annotator belongs to."""

STEPS: Field[list[list[str]]] = Field("steps", "seq")
"""All steps of a completion, judged or not, each with the blanks it begins with."""
STEP_SEQ: Field[Tensor] = Field("step_seq", "step", "int64", into="seq")
STEP_INDEX: Field[Tensor] = Field("step_index", "step", "int64")
"""Which of the steps of its completion it is, the first is 0."""
STEP_END: Field[Tensor] = Field("step_end", "step", "int64", into="token")
STEP_LABELS: Field[Tensor] = Field("step_labels", "step", "float32")
"""Probability that a step is right, as people or rollouts say. A step of which nothing is said is none of the steps
that are judged."""

BELONGS: Mapping[str, tuple[str, Field[Any]]] = {
    "seq": ("group", GROUP),
    "token": ("seq", SEQ),
    "prompt_token": ("group", PROMPT_GROUP),
    "pair": ("seq", CHOSEN),
    "step": ("seq", STEP_SEQ),
    "heard": ("token", HEARD_BEFORE),
}
"""For every dim, the one it lies inside and the field that says where."""
