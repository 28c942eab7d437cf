"""What a phase holds in memory, for a plan: the model that learns, a critic beside it, the models that score, what a
generator takes. What several models hold frozen, and hold as one, is counted once, as `trunk` has it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from msgspec.structs import replace
from transformers import PreTrainedConfig

from truing.fields import Batch, fields
from truing.recipe import Phase
from truing.stage import ModelSpec, within
from truing_model import plugin
from truing_model.head import CHUNK, KEPT
from truing_model.menu_divergence import Divergence
from truing_model.menu_likelihood import Likelihood
from truing_model.menu_place import ModelScorer
from truing_model.trial import Moved, Outline, Tried
from truing_tensor.machine import HELD

LOOSE = 0.75
"""what a heap holds beside each byte of activations: places between what stays, too small for the next step's; measured
on runs of SmolLM2 with all weights and through LoRA, after some steps of data"""
LOOSE_IN_TURNS = HELD * (1 + LOOSE) - 1
"""the same where steps are sampled: no two are alike, and what is held grows until it is given back"""
_KERNELS = 1024 * 280_000
"""bytes that oneDNN compiles: in bfloat16 it keeps so many kernels, one for each shape of a product that it met last"""

PASSING = ("activations", "unused heap", "vocabulary")
"""what a step of learning gives back when it is through"""

Shape = Callable[[plugin.LanguageModelSpec], tuple[plugin.LanguageModelSpec, PreTrainedConfig] | None]
"""The model that one begins from, and its shape; None if it is none of ours."""


class Company(NamedTuple):
    """The models of a phase that are on one device. learning: the policy, or whatever learns, and a critic."""

    learning: list[Outline]
    scorers: list[Outline]

    @classmethod
    def of(cls, policy: Outline, phase: Phase, earlier: Mapping[str, ModelSpec], shape: Shape) -> Company:
        """Those of a phase. Raises UserError."""

        def outlined(spec: plugin.LanguageModelSpec) -> Outline | None:
            found = shape(spec)
            if found is None or spec.device not in ("auto", policy.device.type):
                return None
            return Outline(spec, *found, fields(), policy.device)

        critic = getattr(phase.model, "critic", None)
        beside = [outlined(critic)] if critic else []
        scorers = map(outlined, _scoring(phase, earlier))
        return cls([policy, *filter(None, beside)], [scorer for scorer in scorers if scorer])

    @property
    def policy(self) -> Outline:
        """The model that learns."""
        return self.learning[0]

    def tried(self, piece: Batch, rows: int) -> Tried:
        """What a piece takes of all that learn."""
        each = [model.tried(piece, rows) for model in self.learning]
        return Tried(*map(sum, zip(*each, strict=True)))

    def weights(self) -> dict[str, int]:
        """Bytes of weights that are always there."""
        held = set[Any]()
        learning = sum(_own(model, held) for model in self.learning)
        scorers = (_own(model, held) for model in self.scorers if not model.spec.offload)
        return {"weights": learning, "scorers": sum(scorers)}


def _own(model: Outline, held: set[Any]) -> int:
    """Bytes of a model's weights, but for a trunk that is `held` already."""
    trunk = (getattr(model.spec, "path", ""), model.held)
    if model.spec.lora_rank and trunk in held:
        return model.size.gradients
    if model.spec.lora_rank:
        held.add(trunk)
    return model.size.weights


def _scoring(phase: Phase, earlier: Mapping[str, ModelSpec]) -> Iterator[plugin.LanguageModelSpec]:
    """The models that score."""
    for _, spec in within(phase.scorer) if phase.scorer else ():
        if isinstance(spec, plugin.LanguageModelSpec):
            yield spec
        if not isinstance(spec, ModelScorer):
            continue
        options, path = spec.placement, getattr(spec, "path", "")
        # Of an average the first model stays.
        path = path if isinstance(path, str) else path[0]
        made = earlier.get(path.removeprefix("@"))
        if isinstance(spec, Divergence | Likelihood):
            yield plugin.CausalLm(path=path, **options)
        elif isinstance(spec, plugin.RewardScorer) and spec.trunk and isinstance(made, plugin.RewardModel):
            yield replace(made, path=spec.trunk, **options)
        else:
            yield plugin.RewardModel(path=path, **options)


def memory(
    company: Company,
    reference: Outline | None,
    tried: Tried,
    moved: Moved,
    targets: int,
    in_turns: bool,
) -> dict[str, int]:
    """Bytes by what they are for, while the largest piece is learned from. targets: its tokens that reach the words.
    in_turns: it is sampled in this process, too."""
    policy, size = company.policy, company.policy.size
    cpu, loose = policy.device.type == "cpu", LOOSE_IN_TURNS if in_turns else LOOSE
    halves = 2 if getattr(policy.spec, "reference_dtype", "") == "bf16" else 4
    elsewhere = getattr(policy.spec, "reference_device", "auto") not in ("auto", policy.device.type)
    kept = tried.kept + tried.layer
    asked = halves * reference.size.base if reference and not elsewhere else 0
    visiting = getattr(policy.spec, "reference_offload", False)
    visitors = [model.size.weights for model in company.scorers if model.spec.offload] + [asked] * visiting
    passing = {
        "activations": int(kept),
        "unused heap": int(loose * kept) if cpu else 0,
        "vocabulary": vocabulary_bytes(targets, size.words),
    }
    return {
        **company.weights(),
        "reference": 0 if visiting else asked,
        # They come one at a time, when what a step passes through is not there.
        "offloaded": max(0, max(visitors, default=0) - sum(passing.values())),
        "optimizer": sum(moved.bytes(each.size.trained, each.size.tensors) for each in company.learning),
        # The table of words gets one gradient as input and one as output, and they meet at the end.
        "gradients": sum(each.size.gradients + 4 * each.table for each in company.learning),
        **passing,
        "kernels": _KERNELS if cpu and policy.bf16 else 0,
    }


def vocabulary_bytes(tokens: int, words: int) -> int:
    """Logits and what is made of them: a chunk at a time, and the first ones kept for the backward pass."""
    chunk = 4 * words * min(tokens, CHUNK)
    kept = min(math.ceil(tokens / CHUNK), KEPT // chunk) * chunk if tokens else 0
    return kept + (3 if tokens > CHUNK else 2) * chunk - (chunk if 0 < tokens <= CHUNK and kept else 0)
