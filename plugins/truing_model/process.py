"""The process reward model: a number for every step of a solution; and the scorer that makes one of a completion's.

What a step scores follows from the tokens up to the end of its separator, so it is the same while a solution is being
written and afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from truing.errors import Problem, UserError
from truing.fields import (
    COMPLETIONS,
    GROUP,
    IDS,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SCORES,
    SEQ,
    STEP_END,
    STEP_INDEX,
    STEP_LOGITS,
    STEP_SCORES,
    STEP_SEQ,
    STEPS,
    TOKENS,
    Batch,
    Field,
    Text,
)
from truing.run import Run
from truing.stage import Loss
from truing_model import menu_process as menu
from truing_model.causal import CausalLm
from truing_model.loading import numbers_of
from truing_model.rewards import RewardModel
from truing_model.steps import StepEncoder
from truing_tensor.groups import take_along
from truing_tensor.segments import owners
from truing_tensor.steps import aggregated, is_complete, split_steps, step_ends

_SEPARATOR = "step_separator"
"""how the configuration of a process reward model calls what stands behind a step"""
_PLACE: Field[Tensor] = Field("place", "seq", "int64")


class ProcessRewardModel(RewardModel):
    """A language model that gives STEP_SCORES [step], the log-odds that a step is right, or STEP_LOGITS [step, 3]."""

    spec: menu.ProcessRewardModel
    gives = STEP_SCORES

    def __init__(self, spec: menu.ProcessRewardModel, run: Run) -> None:
        self.gives = STEP_SCORES if spec.classes == 2 else STEP_LOGITS
        super().__init__(spec, run)
        self.by_step = StepEncoder(self.encode_text, self.separator)
        self.encode_text = self.by_step
        if not self.by_step.ids(self.separator):
            what = f"its tokenizer makes no token of the separator {self.separator!r}"
            raise UserError(Problem(spec.path, what, "name another separator"))

    def measure(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """The loss's terms and metrics on a batch, without learning. Raises Stopped."""
        return CausalLm.measure(self, batch, loss)

    def _load(self, path: str, held: torch.dtype) -> Any:
        has, wanted = numbers_of(self.spec, path), self.spec.members
        if {has, wanted} == {1, 3}:
            classes = f"classes = {2 if has == 1 else 3}"
            raise UserError(Problem(self.spec.path, f"its head was made with {classes}", f"write {classes}"))
        model = super()._load(path, held)
        stored: str | None = getattr(model.config, _SEPARATOR, None)
        self.knows_steps = stored is not None
        self.separator = self.spec.separator or stored or "\n"
        setattr(model.config, _SEPARATOR, self.separator)
        return model


class Asked(NamedTuple):
    """What a process reward model is asked. seq, place [step]: which completion, and which of its steps. ends [step]:
    where the steps end among the tokens as they were sampled, None where they are encoded anew."""

    batch: Batch
    seq: Tensor
    place: Tensor
    ends: Tensor | None


class ProcessScorer:
    """Scores the steps of completions, and the completions, with a process reward model that does not learn."""

    def __init__(self, spec: menu.ProcessScorer, run: Run) -> None:
        options: dict[str, Any] = {"path": spec.path, **spec.placement}
        options |= {"max_tokens": spec.max_tokens, "overlong": "truncate"}
        learns = menu.ProcessRewardModel(**options)
        if numbers_of(learns, run.resolve(spec.path)) == 3:
            learns = menu.ProcessRewardModel(**options, classes=3)
        self._model = ProcessRewardModel(learns, run)
        if not self._model.knows_steps:
            mend = 'name what a phase with [model] use = "process-reward-model" made'
            raise UserError(Problem(spec.path, "it is no process reward model: it knows no separator of steps", mend))
        self._model.network.requires_grad_(False)
        self._spec = spec
        self._run = run
        self._ends = _end_tokens(self._model)

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq], and STEP_SCORES and what belongs to them [step]. Raises Stopped."""
        return await self._run.on_device(self._score, batch)

    def _score(self, batch: Batch) -> Batch:
        asked = self._as_sampled(batch) if self._spec.tokens == "sampled" else self._anew(batch)
        scores = log_odds(self._model.scores(asked.batch), self._spec.neutral) if len(asked.seq) else torch.zeros(0)
        whole = aggregated(scores, asked.seq, len(batch[GROUP]), self._spec.aggregate, self._spec.empty)
        if self._spec.tokens == "anew" and STEPS in batch and STEP_SEQ in batch:
            return _beside_labels(batch, asked, scores).put(SCORES, whole)
        # Steps that a source judges may be other ones, and what it says of them would be taken for these.
        kept = Batch({key: value for key, value in batch.items() if key.dims != "step"})
        found = {SCORES: whole, STEP_SEQ: asked.seq, STEP_INDEX: asked.place, STEP_SCORES: scores}
        return kept.put_all(found if asked.ends is None else {**found, STEP_END: asked.ends})

    def _as_sampled(self, batch: Batch) -> Asked:
        """The tokens of each completion without its end token, and a separator behind a last step that has none."""
        sizes = torch.bincount(batch[SEQ], minlength=len(batch[GROUP])).tolist()
        behind = self._model.by_step.ids(self._model.separator)
        tokens: list[list[int]] = []
        found: list[list[int]] = []
        for part in batch[TOKENS].split(sizes):
            written = part.tolist()
            while written and written[-1] in self._ends:
                written.pop()
            ends = step_ends(written, self._text, self._model.separator)
            start = ends[-2] + 1 if len(ends) > 1 else 0
            if not is_complete(self._text(written[start:]), self._model.separator):
                written += behind
                ends[-1:] = [len(written) - 1] * len(ends[-1:])
            tokens.append(written)
            found.append(ends)
        starts = [0, *accumulate(map(len, tokens))]
        seq = owners([len(ends) for ends in found])
        asked = {key: batch[key] for key in (IDS, GROUP, PROMPT_TOKENS, PROMPT_GROUP)} | {
            TOKENS: torch.tensor([token for part in tokens for token in part], dtype=torch.int64),
            SEQ: owners([len(part) for part in tokens]),
            STEP_SEQ: seq,
            STEP_END: _counted(found, starts),
        }
        # The last step of a completion ends with its last token, whatever was put in or taken out for the model.
        last = [[*ends[:-1], size - 1][: len(ends)] for ends, size in zip(found, sizes, strict=True)]
        return Asked(Batch(asked), seq, _indices(found), _counted(last, [0, *accumulate(sizes)]))

    def _anew(self, batch: Batch) -> Asked:
        """Prompts and steps encoded as the model learned them. What is too long has no steps."""
        texts = batch[STEPS] if STEPS in batch else [self._split(text) for text in batch[COMPLETIONS]]
        plain = Batch({key: batch[key] for key in (IDS, PROMPTS, COMPLETIONS, GROUP)})
        stepped = plain.put_all(
            {
                STEPS: texts,
                STEP_SEQ: owners([len(steps) for steps in texts]),
                STEP_INDEX: _indices(texts),
                _PLACE: torch.arange(len(texts)),
            }
        )
        encoded = self._model.encode(stepped).batch
        return Asked(encoded, encoded[_PLACE][encoded[STEP_SEQ]], encoded[STEP_INDEX], None)

    def _split(self, text: Text) -> list[str]:
        said = text if isinstance(text, str) else "".join(turn["content"] for turn in text)
        return split_steps(said, self._model.separator)

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._model.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


def log_odds(said: Tensor, neutral: str) -> Tensor:
    """Log-odds [step] that a step is right, from the one number or the three logits a model gives it.

    said [step, 1], or [step, 3]: wrong, neutral, right. neutral: whether such a step counts as "right" or as "wrong"
    (arXiv:2305.20050, appendix F, which counts it as right).
    """
    if said.shape[1] == 1:
        return said[:, 0]
    if neutral == "right":
        return said[:, 1:].logsumexp(1) - said[:, 0]
    return said[:, 2] - said[:, :2].logsumexp(1)


def _beside_labels(batch: Batch, asked: Asked, scores: Tensor) -> Batch:
    """The batch with STEP_SCORES of the steps that its source judges; those that have no score are left out."""
    place = {step: at for at, step in enumerate(zip(asked.seq.tolist(), asked.place.tolist(), strict=True))}
    judged = zip(batch[STEP_SEQ].tolist(), batch[STEP_INDEX].tolist(), strict=True)
    found = [place.get(step, -1) for step in judged]
    left = torch.tensor(found, dtype=torch.int64) >= 0
    return take_along(batch, "step", left).put(STEP_SCORES, scores[[at for at in found if at >= 0]])


def _end_tokens(model: ProcessRewardModel) -> set[int]:
    """The tokens that end a completion."""
    configured: int | list[int] | None = model.network.base.config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return {token for token in (model.tokenizer.eos_token_id, *several) if isinstance(token, int)}


def _indices(parts: Sequence[Sequence[object]]) -> Tensor:
    return torch.tensor([index for part in parts for index in range(len(part))], dtype=torch.int64)


def _counted(parts: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
    """Positions in each part, counted from where all parts begin."""
    flat = [start + at for part, start in zip(parts, starts, strict=False) for at in part]
    return torch.tensor(flat, dtype=torch.int64)
