"""What a phase will take, told before its model is loaded: parameters, bytes, tokens and seconds.

Steps are the data's own, encoded and cut into pieces as learning does it; layers are measured in small (`trial`). The
rest is arithmetic:

    peak    libraries + weights + reference + optimizer + gradients + activations + vocabulary
    step    pieces x (layers + vocabulary) + looks without gradients + optimizer + what Python takes
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, cast

import torch
from msgspec.structs import replace
from transformers import AutoConfig, PreTrainedConfig

from truing.check import wanted
from truing.errors import Problem, UserError
from truing.fields import (
    IDS,
    LOGPROBS_OLD,
    LOGPROBS_PROXIMAL,
    LOGPROBS_REF,
    PROMPT_TOKENS,
    TOKENS,
    VALUES_OLD,
    Batch,
    Fields,
    fields,
)
from truing.recipe import Phase
from truing.stage import Estimate, ModelSpec
from truing_model import plugin
from truing_model.activations import keeping
from truing_model.encode import Encoder
from truing_model.head import CHUNK, KEPT
from truing_model.layout import cut_into_pieces, lengths_of
from truing_model.loading import load_tokenizer, origin
from truing_model.memory import Company, memory as held
from truing_model.planning_parallel import bytes_of_one, seconds_of_one
from truing_model.planning_sampling import at_rest, in_turns, sampled, sampling
from truing_model.planning_student import Teaching
from truing_model.scratch import write_scratch
from truing_model.trial import Moved, Outline, Tried, layers_alone
from truing_tensor.machine import resident

_LOSS_SECONDS = 1e-3
"""what a loss takes for each piece, and the bookkeeping of a step besides"""

_BUSY = 0.5
"""a load for each core from which measured times say little"""


def plan(
    phase: Phase,
    batches: Sequence[Batch],
    *,
    steps: int,
    per_epoch: int,
    looks: int,
    earlier: Mapping[str, ModelSpec],
) -> Estimate | None:
    """What a phase with one of our models will take; None if it goes on from one that is not ours. Raises UserError."""
    spec = cast(plugin.LanguageModelSpec, phase.model)
    source = beginning(spec, earlier)
    if source is None:
        return None
    tokenizer, config = _opened(source)
    outline = Outline(spec, source, config, _needs(phase), _device(spec))
    keeping(spec, outline.device)
    # Before anything is tried: what has been imported by now is what a run imports.
    libraries = _libraries(phase) if outline.device.type == "cpu" else 0
    cut = _steps(outline, tokenizer, batches, phase)
    largest = max((piece for step in cut for piece in step.pieces), key=lambda piece: piece.rows)
    shape = partial(_shape, earlier=earlier)
    company, teaching = Company.of(outline, phase, earlier, shape), Teaching.of(outline, shape)
    tried, moved = company.tried(largest.batch, largest.rows), outline.moved(cast(Any, phase.optimizer))
    reference = _reference(outline, earlier)
    taken = sampling(outline, phase, [step.batch for step in cut], libraries)
    learned = held(company, reference, tried, moved, largest.targets, in_turns(taken))
    memory = {"libraries": libraries, **learned, **taken}
    memory |= teaching.bytes(largest.targets) if teaching else {}
    memory = bytes_of_one(memory, spec.parallel, outline.size)
    speed = _Speed(company, tried, moved, largest, outline.head(largest.targets))
    # What the reference says of a group is kept, so it is asked in the first pass; of what is sampled it is not.
    asked = 1.0 if phase.generator else min(steps, per_epoch) / steps
    asked *= reference.size.costs.token / outline.size.costs.token if reference else 1.0
    taught = teaching.seconds(*(fmean(map(each, cut)) for each in (speed.look, speed.words))) if teaching else {}
    shares = seconds_of_one(_shares(speed, cut, phase, asked) | taught, spec.parallel)
    # Of a holdout that is sampled, nothing is told.
    looks = 0 if phase.generator else looks
    looked = looks / fmean(len(step.batch[IDS]) for step in cut) * fmean(map(speed.look, cut))
    return Estimate(
        parameters=sum(model.size.parameters for model in company.learning),
        trained=sum(model.size.trained for model in company.learning),
        memory={part: count for part, count in memory.items() if count},
        peak=_peak(memory, cut),
        free=_free(outline.device),
        tokens=fmean(len(step.batch[PROMPT_TOKENS]) + len(step.batch[TOKENS]) for step in cut),
        seconds={"step": sum(shares.values()), **shares, "phase": steps * sum(shares.values()) + looked},
        notes=_notes(outline, largest, phase, tried),
    )


def _peak(memory: Mapping[str, int], cut: Sequence[Step]) -> int:
    """Bytes at the most: not all parts are at theirs at a time."""
    # In a step of one piece, gradients come as activations go.
    apart = min(memory["gradients"], memory["activations"]) if all(len(step.pieces) == 1 for step in cut) else 0
    return sum(memory.values()) - apart - at_rest(memory)


def beginning(spec: ModelSpec, earlier: Mapping[str, ModelSpec]) -> plugin.LanguageModelSpec | None:
    """The model whose shape and tokenizer a model has: its own, or that of the phase it goes on from."""
    while (path := getattr(spec, "path", "")).startswith("@"):
        spec = earlier[path[1:]]
    return spec if isinstance(spec, plugin.LanguageModelSpec) else None


def _shape(
    spec: ModelSpec, earlier: Mapping[str, ModelSpec]
) -> tuple[plugin.LanguageModelSpec, PreTrainedConfig] | None:
    """The model that one begins from, and its shape; None if it is none of ours. Raises UserError."""
    source = beginning(spec, earlier)
    return (source, _opened(source)[1]) if source else None


class Piece(NamedTuple):
    """What goes forward at once. rows: its positions. targets: those that reach a vocabulary. cost: of the layers."""

    batch: Batch
    rows: int
    targets: int
    cost: float


class Step(NamedTuple):
    """A step of the data. split: some group is in two of its pieces. seconds: what encoding and cutting it took."""

    batch: Batch
    pieces: Sequence[Piece]
    split: bool
    seconds: float


def _opened(source: plugin.LanguageModelSpec) -> tuple[Any, PreTrainedConfig]:
    """Tokenizer and shape of a model, without its weights. Raises UserError."""
    if isinstance(source, plugin.ScratchLm):
        with tempfile.TemporaryDirectory(prefix="truing-plan-") as folder:
            write_scratch(Path(folder), replace(source, layers=1), 0)
            tokenizer, config = _from(plugin.CausalLm(path=folder))
        config.num_hidden_layers = source.layers
        return tokenizer, config
    return _from(cast(plugin.PretrainedSpec, source))


def _from(source: plugin.PretrainedSpec) -> tuple[Any, PreTrainedConfig]:
    tokenizer = load_tokenizer(source, source.path)
    place = origin(source, source.path)
    revision = {"revision": source.revision} if source.revision and not Path(place).exists() else {}
    try:
        return tokenizer, AutoConfig.from_pretrained(place, trust_remote_code=source.trust_remote_code, **revision)
    except (OSError, ValueError) as error:
        raise UserError(Problem(place, f"transformers cannot read its shape: {str(error).splitlines()[0]}")) from None


def _device(spec: plugin.LanguageModelSpec) -> torch.device:
    return torch.device("cuda" if spec.device != "cpu" and torch.cuda.is_available() else "cpu")


_libraries_once = cache(resident)
"""Bytes this process took when it was first asked."""


def _libraries(phase: Phase) -> int:
    """Bytes of everything a run imports. Of a later phase, what the first one took."""
    for spec in (phase.model, phase.optimizer, phase.loss):
        if spec:
            spec.implementation()
    return _libraries_once()


def _free(device: torch.device) -> int:
    """Bytes the device has to spare."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _steps(outline: Outline, tokenizer: Any, batches: Sequence[Batch], phase: Phase) -> Sequence[Step]:
    """The steps of a sample, encoded and cut. Raises UserError if nothing of them is left."""
    spec = outline.spec
    encoder = Encoder(tokenizer, spec.max_tokens, spec.overlong == "truncate")

    def encoded(batch: Batch) -> Batch:
        return sampled(batch, encoder, phase) if phase.generator else encoder(batch).batch

    # The first call compiles the chat template.
    encoded(batches[0])
    cut: list[Step] = []
    for batch in batches:
        began = time.perf_counter()
        tokens = encoded(batch)
        if step := _cut(outline, tokens, time.perf_counter() - began):
            cut.append(step)
    if not cut:
        what = f"no group of the first {len(batches)} steps is left: each has more tokens than max_tokens"
        raise UserError(Problem("max_tokens", what, f"max_tokens is {spec.max_tokens}"))
    return cut


def _cut(outline: Outline, batch: Batch, encoding: float) -> Step | None:
    """A step as learning would cut it; None if none of its groups is left. encoding: seconds it took."""
    if not batch[IDS]:
        return None
    costs, layers = outline.size.costs, layers_alone(outline.size.costs)
    began = time.perf_counter()
    found = cut_into_pieces(batch, outline.budget, costs, outline.spec.processes)
    seconds = time.perf_counter() - began
    pieces: list[Piece] = []
    for piece in found.batches:
        lengths = lengths_of(piece)
        if not outline.shared:
            lengths = [(prompt, [answer]) for prompt, answers in lengths for answer in answers]
        rows = sum(prompt + sum(answers) for prompt, answers in lengths)
        cost = sum(layers.group(prompt, answers) for prompt, answers in lengths)
        pieces.append(Piece(piece, rows, 0 if outline.scores else len(piece[TOKENS]), cost))
    return Step(batch, pieces, found.cut, encoding + seconds)


def _reference(outline: Outline, earlier: Mapping[str, ModelSpec]) -> Outline | None:
    """The model beside the one that learns that answers as the reference, if there is one. Raises UserError."""
    named = getattr(outline.spec, "reference", "")
    if LOGPROBS_REF not in outline.wanted or (outline.spec.lora_rank and not named):
        return None
    found = _shape(plugin.CausalLm(path=named), earlier) if named else None
    return Outline(plugin.CausalLm(path=named), *found, outline.wanted, outline.device) if found else outline


class _Speed(NamedTuple):
    """Seconds of the parts of a step, off a trial on one piece. head: per token that reaches it, to learn, to look."""

    company: Company
    tried: Tried
    moved: Moved
    piece: Piece
    head: tuple[float, float]

    def layers(self, step: Step) -> float:
        return self.tried.learn * self._times(step)

    def look(self, step: Step) -> float:
        """A pass without gradients."""
        return self.tried.look * self._times(step) + self.words(step)

    def words(self, step: Step) -> float:
        """The vocabulary of such a pass."""
        return self.head[1] * sum(piece.targets for piece in step.pieces)

    def vocabulary(self, step: Step) -> float:
        """What was not kept is made twice."""
        kept = KEPT // (4 * self.company.policy.size.words * CHUNK) * CHUNK or CHUNK
        again = sum(max(piece.targets - kept, 0) for piece in step.pieces)
        return self.head[0] * sum(piece.targets for piece in step.pieces) + self.head[1] * again

    def moving(self, step: Step) -> float:
        """The optimizer, and the gradient of the table of words, which is as large as the table for each piece."""
        learning = self.company.learning
        return self.moved.seconds * sum(each.size.trained + each.table * len(step.pieces) / 2 for each in learning)

    def _times(self, step: Step) -> float:
        return sum(piece.cost for piece in step.pieces) / self.piece.cost


def _shares(speed: _Speed, cut: Sequence[Step], phase: Phase, asked: float) -> dict[str, float]:
    """Seconds of a step by what they are for. asked: how many passes of this model a step's reference is worth."""
    needs = _needs(phase)
    whole, alone = (getattr(phase.loss, name, False) for name in ("whole_step", "by_completion"))
    twice = [step for step in cut if len(step.pieces) > 1 and (whole or (step.split and not alone))]
    looks = sum(map(speed.look, twice)) / len(cut)
    written = phase.generator.provides() if phase.generator else fields()
    if needs & (fields(LOGPROBS_OLD) - written | fields(LOGPROBS_PROXIMAL, VALUES_OLD)):
        looks += fmean(map(speed.look, cut))
    passes = getattr(phase.model, "passes", 1)
    shares = {
        "layers": passes * fmean(map(speed.layers, cut)),
        "vocabulary": passes * fmean(map(speed.vocabulary, cut)),
        "optimizer": passes * getattr(phase.model, "minibatches", 1) * fmean(map(speed.moving, cut)),
        "looks": looks,
        "reference": asked * fmean(map(speed.look, cut)) if LOGPROBS_REF in needs else 0.0,
        # The next step is encoded meanwhile, in a thread of its own but by the same interpreter.
        "Python": fmean(step.seconds + _LOSS_SECONDS * (1 + len(step.pieces)) for step in cut),
    }
    return {part: seconds for part, seconds in shares.items() if seconds}


def _needs(phase: Phase) -> Fields:
    """What the parts of a phase ask of its model, an estimator inside of it among them."""
    inside = getattr(phase.model, "advantage", None)
    return wanted(phase) | (inside.requires() if inside else fields())


def _notes(outline: Outline, largest: Piece, phase: Phase, tried: Tried) -> list[str]:
    """What the numbers stand on."""
    where = torch.cuda.get_device_name() if outline.device.type == "cuda" else outline.device.type
    how = f"{'bf16' if outline.bf16 else 'fp32'}, {'shared' if outline.shared else 'plain'} rows"
    found = [
        f"{where}, {how}, largest piece {largest.rows:,} tokens, {largest.targets:,} of them through the vocabulary"
    ]
    if getattr(outline.source, "trust_remote_code", False):
        found.append(f"code that comes with the model {getattr(outline.source, 'path', '')} was run for this")
    if outline.spec.processes > 1:
        found.append(f"of the first of {outline.spec.processes} processes; what passes between them takes more time")
    if tried.away:
        found.append(f"{tried.away / 2**20:,.0f} MiB of activations wait in the machine's memory, and travel twice")
    if phase.generator:
        found.append("completions as long as they may be; the time that sampling and scoring take is not in it")
    if outline.narrower > 1:
        found.append(f"measured on layers {outline.narrower} times narrower: times are rough")
    elif outline.device.type == "cpu" and os.getloadavg()[0] > _BUSY * (os.cpu_count() or 1):
        found.append(f"this machine is busy (load {os.getloadavg()[0]:.1f}): times are those of now")
    if outline.device.type != "cpu":
        found.append("the arithmetic of a CPU: on a GPU it has not been compared with what is used")
    return found
