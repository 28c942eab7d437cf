"""The reward model: the same trunk and the same way to learn, with a number a completion as its output, or several.

What it says of the holdout last, after the last step, is the scale of its scores; that is exported with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from truing.errors import Problem, UserError
from truing.fields import MEMBER_SCORES, PROMPT_TOKENS, SCORES, TOKENS, Batch, Field, Fields, fields
from truing.run import Run
from truing.stage import Loss, LossValue
from truing_model import plugin, scale
from truing_model.causal import CausalLm
from truing_model.forward import HEADS
from truing_model.learner import MODEL
from truing_model.loading import kind_of, load_scorer, numbers_of
from truing_model.lora import adapter_options, keep_head, load_adapter

SEEN = "seen.json"
"""of a checkpoint: what the model said of its holdout"""


class Seen(NamedTuple):
    """What a model of this version said of its holdout."""

    version: int
    scale: scale.Scale | None


class RewardModel(CausalLm):
    """A language model that gives SCORES [seq]."""

    spec: plugin.RewardModel
    gives: Field[Tensor] = SCORES

    def __init__(self, spec: plugin.RewardModel, run: Run) -> None:
        super().__init__(spec, run)
        self._seen: Seen | None = None

    def measure(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """The loss's terms and metrics on a batch, without learning. Raises Stopped."""

        def watched(whole: Batch) -> LossValue:
            self._seen = Seen(self.version, scale.measured(whole, _by_member(whole[self.gives])))
            return loss(whole)

        return super().measure(batch, watched)

    def checkpoint(self, folder: Path) -> None:
        """Write what is needed to go on, and what was last said of the holdout: a phase may end with these weights."""
        super().checkpoint(folder)
        if self._seen:
            (folder / SEEN).write_bytes(msgspec.json.encode(self._seen))

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        super().restore(folder)
        kept = folder / SEEN
        self._seen = msgspec.json.decode(kept.read_bytes(), type=Seen) if kept.exists() else None

    def export(self, folder: Path) -> Mapping[str, Any]:
        """Write a folder that transformers loads, and the scale of the scores if there was a holdout. The head is in
        the adapter, too."""
        with self.crew.whole(MODEL):
            head = {name: value.clone() for name, value in self.network.heads[HEADS[self.gives]].state_dict().items()}
            facts = dict(super().export(folder))
        if self.spec.lora_rank:
            keep_head(folder / "adapter", head)
        if self._seen and self._seen.version == self.version:
            if self._seen.scale is None:
                self._say("it gives every completion of the holdout the same score, so its scores have no scale")
            else:
                scale.write(folder, self._seen.scale)
                facts["scale"] = msgspec.to_builtins(self._seen.scale)
        return facts

    def scores(self, batch: Batch) -> Tensor:
        """[seq, member] scores of a batch with tokens, without gradients. Raises UserError for tokens it does not
        know."""
        largest = max(int(batch[key].max()) for key in (PROMPT_TOKENS, TOKENS))
        if largest >= self.vocabulary:
            what = f"token {largest} was sampled, and this reward model has weights for {self.vocabulary}"
            raise UserError(Problem(self.spec.path, what, "use a reward model with the policy's vocabulary"))
        return _by_member(self._look(batch)[self.gives])

    def _load(self, path: str, held: torch.dtype) -> Any:
        has, wanted = numbers_of(self.spec, path), self.spec.members
        if has not in (0, wanted):
            uses = "reward-model" if has == 1 else f"reward-ensemble with heads = {has}"
            raise UserError(Problem(self.spec.path, f"it gives {has} numbers a text, not {wanted}", f"use {uses}"))
        model: Any = load_scorer(self.spec, path, held, wanted).to(self.device)
        # A head learns in steps that bfloat16 would round away.
        model.score.float()
        # transformers looks for the last token that is not padding: one that ends texts must not be taken for padding.
        if model.config.pad_token_id == self.tokenizer.eos_token_id:
            model.config.pad_token_id = None
        return model

    def _gives(self) -> Fields:
        return fields(self.gives)

    def _heads(self, base: Any) -> dict[str, nn.Module]:
        return {HEADS[self.gives]: base.score}


class RewardEnsemble(RewardModel):
    """A language model that gives MEMBER_SCORES [seq, member]: a head for each member on one trunk."""

    gives = MEMBER_SCORES


class RewardScorer:
    """Scores completions with a reward model that does not learn, or with the average of several."""

    def __init__(self, spec: plugin.RewardScorer, run: Run) -> None:
        first, *others = [spec.path] if isinstance(spec.path, str) else spec.path
        self._model = _scoring(first, spec, run)
        self._model.network.requires_grad_(False)
        for count, path in enumerate(others, 2):
            _into_mean(self._model, _scoring(path, spec, run), count)
        self._run = run
        self._how = spec.scale
        self._scale = None if spec.scale == "raw" else _scale_of(self._model, Path(run.resolve(first)), spec.scale)

    async def score(self, batch: Batch) -> Batch:
        """The batch with SCORES [seq], and MEMBER_SCORES [seq, member] where there are several. Raises Stopped."""
        scores = await self._run.on_device(self._model.scores, batch)
        if self._scale:
            scores = self._scale.applied(scores, self._how)
        if scores.shape[1] == 1:
            return batch.put(SCORES, scores[:, 0])
        return batch.put_all({SCORES: scores.mean(1), MEMBER_SCORES: scores})


def _by_member(scores: Tensor) -> Tensor:
    """[seq, member] of the scores of one or of several."""
    return scores if scores.ndim == 2 else scores[:, None]


def _scoring(path: str, spec: plugin.RewardScorer, run: Run) -> RewardModel:
    """The model that a scorer asks. Raises UserError for one without a head that was trained."""
    options: dict[str, Any] = {"path": path, **spec.placement}
    alone = plugin.RewardModel(**options)
    members, kind = numbers_of(alone, run.resolve(path)), kind_of(alone, run.resolve(path))
    if kind:
        raise UserError(Problem(path, f"it is a {kind}", f'write use = "{kind}" in the scorer'))
    if not members:
        what = "it is no reward model: it has no head that scores"
        raise UserError(Problem(path, what, 'name what a phase with [model] use = "reward-model" made'))
    adapter = Path(run.resolve(path)) / "adapter"
    if spec.trunk:
        options |= {"path": spec.trunk, **adapter_options(adapter)}
    if members == 1:
        model = RewardModel(plugin.RewardModel(**options), run)
    else:
        model = RewardEnsemble(plugin.RewardEnsemble(**options, heads=members), run)
    if spec.trunk:
        load_adapter(adapter, model.network.model)
    return model


def _scale_of(model: RewardModel, folder: Path, how: str) -> scale.Scale:
    """The scale that is kept with a model. Raises UserError if there is none, or none of this kind."""
    found = scale.read(folder, model.spec.members)
    if found is None:
        what = f"it has no {scale.FILE}: its scores were never measured on a holdout"
        raise UserError(Problem(str(folder), what, "train it with a [holdout], or take `scale` out"))
    if how == "calibrated" and None in found.temperature:
        what = f"its scores cannot be made probabilities: on {found.pairs} held-out pairs they told nothing"
        raise UserError(Problem(str(folder), what, 'use scale = "normalised", or train it better'))
    return found


@torch.no_grad()
def _into_mean(model: RewardModel, other: RewardModel, count: int) -> None:
    """Make of a model that is the mean of `count` - 1 the mean of `count`, head included (arXiv:2401.12187, eq. 1).

    Equal weights stay what they are to the last bit. Raises UserError if the two have other shapes or tokens.
    """
    mean, more = (dict(each.network.base.named_parameters()) for each in (model, other))
    if {name: value.shape for name, value in mean.items()} != {name: value.shape for name, value in more.items()}:
        what = f"its weights have other shapes than those of {model.spec.path}"
        raise UserError(Problem(other.spec.path, what, _ONE))
    if model.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise UserError(Problem(other.spec.path, f"its vocabulary is not that of {model.spec.path}", _ONE))
    for name, value in mean.items():
        value += (more[name] - value) / count


_ONE = "average models that were trained from the same one"
