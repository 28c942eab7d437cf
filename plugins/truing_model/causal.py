"""The causal language model: encodes, annotates, learns, and writes itself down.

    learn:   pieces of the step -> network -> loss on its outputs -> one backward each -> clip -> optimizer step

A loss that must see the whole step at once gets it: all pieces go forward without gradients, the loss says what it
wants changed in their outputs, and then each goes forward again to carry that back (the gradient cache of
arXiv:2101.06983, section 3). Nothing is changed until the last piece is through, so a request to stop costs nothing but
what was computed.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from truing.errors import Problem, RunFailed, UserError
from truing.events import Notice
from truing.fields import (
    COLLISION_ENTROPY,
    ENTROPY,
    IDS,
    LOGPROBS,
    LOGPROBS_OLD,
    LOGPROBS_PROXIMAL,
    LOGPROBS_REF,
    PROMPT_TOKENS,
    SEQ,
    TOKENS,
    VALUES,
    VALUES_OLD,
    VERSION,
    Batch,
    Field,
    Fields,
    fields,
)
from truing.run import Run, Stopped
from truing.stage import Encoded, Loss, Optimizer
from truing_model import plugin
from truing_model.activations import checkpointed, keeping
from truing_model.by_group import of_groups
from truing_model.costs import costs_of, tokens_at_once
from truing_model.crew import Alone, Crew, attached, filled, in_turns
from truing_model.dropout import LUCK, drops, with_luck
from truing_model.encode import Encoder
from truing_model.forward import HEADS, READS, Network, decoder_for
from truing_model.layout import Pieces, cut_into_pieces, only_some
from truing_model.learner import MODEL, REFERENCE, Learner
from truing_model.loading import cache_folder, load_model, load_tokenizer, origin, same_tokens, width_of
from truing_model.lora import add_lora, merged
from truing_model.offload import Offload, in_use, let_go
from truing_model.reference import ReferenceStore, by_group, fingerprint, group_keys, group_sizes
from truing_model.state import dump, load_heads, save_heads, told_by_the_disk, trainable
from truing_model.step import StepSums, counts_of, needs_all, parts, reached
from truing_model.trunk import share
from truing_model.weights import ModelWeights
from truing_tensor.groups import take
from truing_tensor.machine import computes_in_bf16, device_for, keep_freed_memory, let_go_of_freed_memory

_AS_IT_IS: Mapping[Field[Any], Field[Tensor]] = {
    LOGPROBS_OLD: LOGPROBS,
    LOGPROBS_PROXIMAL: LOGPROBS,
    VALUES_OLD: VALUES,
}
"""What the model says before it learns from a batch, and as what a loss reads it."""


class CausalLm:
    """A causal language model that learns. version: optimizer steps taken."""

    def __init__(self, spec: plugin.PretrainedSpec, run: Run) -> None:
        keep_freed_memory()
        # The model of the phase before goes only now: it is in circles, and Python seldom looks for those.
        gc.collect()
        let_go_of_freed_memory()
        torch.manual_seed(run.seed_for("model", run.phase))
        self.spec = spec
        self.run = run
        self.version = 0
        if spec.trust_remote_code:
            whose = " and ".join(filter(None, (spec.path, spec.reference)))
            self._say(f"code that comes with the model {whose} is being run: trust_remote_code = true")
        self.device = device_for(spec.device)
        kept = keeping(spec, self.device)
        self.path = run.resolve(spec.path)
        self.bf16 = computes_in_bf16(spec.dtype, self.device.type, width_of(spec, self.path))
        self.tokenizer = load_tokenizer(spec, self.path)
        self.encode_text = Encoder(self.tokenizer, spec.max_tokens, spec.overlong == "truncate")
        # Frozen weights lose nothing by being held in the type they are computed in; those that learn stay fp32.
        held = torch.bfloat16 if self.bf16 and spec.lora_rank else torch.float32
        base = self._load(self.path, held)
        self.vocabulary = base.get_input_embeddings().weight.shape[0]
        decoder = self._decoder(base)
        self.layout = "shared" if decoder else "plain"
        self.own_layers = decoder is not None and decoder.own_layers
        self.costs = costs_of(base)
        self.budget = spec.micro_tokens or tokens_at_once(self.device.type)
        # Before an adapter changes the names of its weights: the reference is the model as it was loaded.
        self.reference_path = run.resolve(spec.reference)
        if self.reference_path:
            same_tokens(spec, self.reference_path, spec.reference, self.tokenizer)
        self.store = self._open_store(base) if LOGPROBS_REF in run.wanted else None
        if spec.gradient_checkpointing:
            checkpointed(base, decoder)
        heads = self._heads(base)
        load_heads(Path(self.path), heads)
        model = add_lora(base, spec) if spec.lora_rank else base
        for head in heads.values():
            head.requires_grad_(True)
        if spec.lora_rank and not spec.offload:
            share(model)
        self.network = Network(model, decoder, heads, self._gives(), self.bf16).to(self.device)
        own = [Offload(self.network, self.device, run.phase_folder)] if spec.offload else []
        self.offloaded = {MODEL: own, REFERENCE: list[Offload]()}
        self._drops = drops(self.network.base)
        self.learner = Learner(self._as, kept)
        self.crew: Crew = Alone(self.learner)
        let_go_of_freed_memory()

    def encode(self, batch: Batch) -> Encoded:
        """Text to tokens. Raises UserError for a token that the model has no weights for."""
        encoded = self.encode_text(batch)
        tokens = (encoded.batch[key] for key in (PROMPT_TOKENS, TOKENS))
        largest = max((int(part.max()) for part in tokens if len(part)), default=0)
        if largest >= self.vocabulary:
            word = self.tokenizer.convert_ids_to_tokens(largest)
            what = f"its tokenizer makes token {largest} ({word!r}), and its model has weights for {self.vocabulary}"
            raise UserError(Problem(self.spec.path, what, "use the tokenizer that the model was trained with"))
        return encoded

    def annotate(self, batch: Batch, wanted: Fields) -> Batch:
        """Add what a loss needs and learning does not change: LOGPROBS_REF [token], and LOGPROBS_OLD, LOGPROBS_PROXIMAL
        and VALUES_OLD [token] where the batch has none yet. Raises Stopped."""
        if LOGPROBS_REF in wanted:
            # What was sampled is never met again, so its answers are not kept.
            ask = self._ask_anew if VERSION in batch else self._ask_reference
            batch = batch.put(LOGPROBS_REF, ask(batch))
        missing = wanted & _AS_IT_IS.keys() - batch.keys()
        if not missing:
            return batch
        found = self._look(batch)
        return batch.put_all({key: found[_AS_IT_IS[key]] for key in missing})

    def attach(self, optimizer: Optimizer, steps: int) -> None:
        """Prepare to learn for so many steps."""
        self.crew = attached(self.crew, self.spec.parallel, self.run, optimizer, steps)
        for each in self.offloaded[MODEL]:
            each.optimizer = self.learner.optimizer

    def learn(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """One optimizer step. Raises Stopped with nothing changed, and RunFailed when something is not a number."""
        with self._as(MODEL):
            return self._step(batch, loss)

    def _step(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        sums = StepSums(counts_of(batch))
        if self._drops:
            batch = with_luck(batch, self.run.seed_for("dropout", self.run.phase, self.learner.steps))
        self.crew.same("begin")
        step, known = self._cut(batch), None
        if needs_all(loss, step):
            step, known = self._gradients_of_whole(batch, step, loss, sums)
        for some in self._in_turns(step):
            self._unless_stopped()
            last = some[-1] == len(step.batches) - 1
            given = [[_passed(step.batches[at]), last] for at in filled(self.crew.count, some)]
            outputs = self.crew.each("forward", given)
            gradients = [[Batch()]] * self.crew.count
            for rank, at in enumerate(some):
                piece = step.batches[at]
                found = self._sound(outputs[rank], piece)
                gradients[rank] = [Batch(parts(known, step.places[at]) if known else sums.gradient(loss, piece, found))]
            self.crew.each("backward", gradients)
        norm = self.crew.same("norm")
        if not torch.isfinite(norm):
            raise self._not_a_number("the gradient", batch)
        rate = self.crew.same("move")
        self.version += 1
        tokens = float(len(batch[PROMPT_TOKENS]) + len(batch[TOKENS]))
        return {**sums.report(), "gradient_norm": float(norm), "learning_rate": rate, "tokens": tokens}

    def measure(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """The loss's terms and metrics on a batch, without learning. Raises Stopped."""
        sums, outputs = StepSums(counts_of(batch)), self._look(batch)
        # The whole comes last: whoever watches what a loss is handed is left with that.
        told = of_groups(loss, batch, outputs)
        sums.look(loss, batch, outputs)
        return told | sums.report()

    def weights(self) -> ModelWeights:
        """Its weights as they are now; they are read before the next step is learned."""
        place, whole = origin(self.spec, self.path), partial(self._whole, MODEL)
        return ModelWeights(self.version, place, self.network.model, self._reference_weights, whole=whole)

    def _reference_weights(self) -> ModelWeights:
        if self.spec.lora_rank and not self.reference_path:
            whole, place = partial(self._whole, MODEL), origin(self.spec, self.path)
            return ModelWeights(0, place, self.network.model, adapted=False, whole=whole)
        whole, place = partial(self._whole, REFERENCE), origin(self.spec, self.reference_path or self.path)
        return ModelWeights(0, place, self.reference.model, whole=whole)

    @contextmanager
    def _whole(self, who: str) -> Iterator[None]:
        """Every weight of a network can be read meanwhile, where it rests."""
        with self.crew.whole(who):
            yield
        let_go(self.offloaded[who])

    def checkpoint(self, folder: Path) -> None:
        """Write what is needed to go on."""
        self._keep_reference()
        self.crew.same("save", str(folder), self.version)
        let_go(self.offloaded[MODEL])

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        self.version = self.crew.same("load", str(folder))

    def export(self, folder: Path) -> Mapping[str, Any]:
        """Write a folder that transformers loads; with LoRA the merged model, and the adapter itself in `adapter/`."""
        self._keep_reference()
        with self.crew.whole(MODEL), told_by_the_disk():
            return self._export(folder)

    def _export(self, folder: Path) -> dict[str, Any]:
        model = self.network.model
        # Counted now: an adapter that is merged has no weights left.
        trained = sum(value.numel() for value in trainable(self.network).values())
        if self.spec.lora_rank:
            model.save_pretrained(folder / "adapter")
            model = merged(model)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_heads(folder, self.network.heads)
        return {
            "architecture": type(model).__name__,
            "parameters": sum(value.numel() for value in model.parameters()),
            "trained": trained,
            "precision": "bf16" if self.bf16 else "fp32",
            "layout": self.layout,
            "layers": "own" if self.own_layers else "transformers",
            "device": self.device.type,
            "lora_rank": self.spec.lora_rank,
            "steps": self.version,
            "from": self.spec.path,
        }

    def _load(self, path: str, held: torch.dtype) -> Any:
        return load_model(self.spec, path, held).to(self.device)

    def _gives(self) -> Fields:
        more = fields(ENTROPY, COLLISION_ENTROPY) & self.run.wanted
        return fields(LOGPROBS) | more | (fields(VALUES) if self.spec.value_head else fields())

    def _heads(self, base: Any) -> dict[str, nn.Module]:
        """The heads beside the vocabulary. A value head begins by saying 0."""
        if not self.spec.value_head:
            return {}
        head = nn.Linear(base.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return {HEADS[VALUES]: head}

    def _decoder(self, base: Any) -> Any:
        try:
            return decoder_for(base, self.spec.layout, self.spec.max_tokens)
        except ValueError as error:
            what = f"this model cannot have shared rows: {error}"
            raise UserError(Problem(self.spec.path, what, 'leave layout at "auto"')) from None

    def _open_store(self, base: nn.Module) -> ReferenceStore:
        held_to = self.reference.model if self.reference_path else base
        name = fingerprint(held_to, self._reference_in_bf16, self.layout)
        return ReferenceStore(cache_folder() / "reference" / name, self._say)

    def _keep_reference(self) -> None:
        if self.store:
            self.store.flush()

    def _say(self, text: str) -> None:
        self.run.bus.publish(Notice(phase=self.run.phase, text=text))

    def _ask_reference(self, batch: Batch) -> Tensor:
        """LOGPROBS_REF [token]: what is known of a group is looked up, the rest is asked and kept."""
        assert self.store, "built for a phase that needs no reference"
        keys, sizes = group_keys(batch), group_sizes(batch)
        missing = [
            at for at, (key, size) in enumerate(zip(keys, sizes, strict=True)) if self.store.get(key, size) is None
        ]
        if missing:
            unknown = take(batch, missing)
            found = self._ask_anew(unknown)
            for at, logprobs in zip(missing, by_group(unknown, found), strict=True):
                self.store.put(keys[at], logprobs)
        known = [self.store.get(key, size) for key, size in zip(keys, sizes, strict=True)]
        return torch.cat([logprobs for logprobs in known if logprobs is not None])

    def _ask_anew(self, batch: Batch) -> Tensor:
        return self._look(batch, REFERENCE)[LOGPROBS]

    @cached_property
    def reference(self) -> Network:
        """The model that was named as the reference, else a frozen copy of this one as it was loaded; made when it is
        first asked something."""
        held = torch.bfloat16 if self.spec.reference_dtype == "bf16" else torch.float32
        model = self._load(self.reference_path or self.path, held).requires_grad_(False)
        asked = self.spec.reference_device
        device = self.device if asked == "auto" else device_for(asked)
        network = Network(model, self._decoder(model), {}, fields(LOGPROBS), self._reference_in_bf16).to(device)
        if self.spec.reference_offload:
            self.offloaded[REFERENCE] = [Offload(network, device, self.run.phase_folder)]
        return network

    @property
    def _reference_in_bf16(self) -> bool:
        asked = self.spec.reference_dtype
        return self.bf16 if asked == "auto" else asked == "bf16"

    @contextmanager
    def _as(self, who: str) -> Iterator[nn.Module]:
        """The network that answers as the model, or as its reference, on its device meanwhile."""
        adapted = who == MODEL or (self.spec.lora_rank and not self.reference_path)
        network, of = (self.network, MODEL) if adapted else (self.reference, REFERENCE)
        as_loaded = adapted and who == REFERENCE
        with in_use(self.offloaded[of]), self.network.model.disable_adapter() if as_loaded else nullcontext():
            yield network

    def _cut(self, batch: Batch) -> Pieces:
        return cut_into_pieces(batch, self.budget, self.costs, self.crew.count)

    def _in_turns(self, step: Pieces) -> Iterator[Sequence[int]]:
        return in_turns(self.crew.count, range(len(step.batches)))

    def _gradients_of_whole(
        self, batch: Batch, step: Pieces, loss: Loss, sums: StepSums
    ) -> tuple[Pieces, Mapping[Field[Tensor], Tensor]]:
        """The gradient of the loss with respect to the outputs of all pieces together, and what must go forward again
        to carry it back: a completion that it leaves alone, one that is there for an estimate, need not."""
        outputs = self._together(MODEL, step)
        gradients = sums.gradient(loss, batch, outputs)
        taught = reached(batch, gradients)
        if taught.all() or not taught.any():
            return step, gradients
        tokens = taught[batch[SEQ]]
        kept = {key: value[tokens if key.dims == "token" else taught] for key, value in gradients.items()}
        some = only_some(batch, taught)
        return self._cut(some.put(LUCK, batch[LUCK][taught]) if self._drops else some), kept

    def _together(self, who: str, step: Pieces) -> Batch:
        """The outputs of all pieces without gradients, put in the order of the step."""
        with self._as(who):
            return self._outputs(who, step)

    def _outputs(self, who: str, step: Pieces) -> Batch:
        found: dict[Field[Tensor], Tensor] = {}
        for some in self._in_turns(step):
            self._unless_stopped()
            given = [[who, _passed(step.batches[at])] for at in filled(self.crew.count, some)]
            for at, outputs in zip(some, self.crew.each("look", given), strict=False):
                for key, value in self._sound(outputs, step.batches[at], f"the {who}").items():
                    size = sum(len(places[key.dims]) for places in step.places)
                    whole = found.setdefault(key, torch.empty(size, *value.shape[1:]))
                    whole[step.places[at][key.dims]] = value.float().cpu()
        return Batch(found)

    def _look(self, batch: Batch, who: str = MODEL) -> Batch:
        """What a network gives of a batch, without gradients and without dropout."""
        return self._together(who, self._cut(batch))

    def _unless_stopped(self) -> None:
        if self.run.stop:
            raise Stopped

    def _sound(self, outputs: Batch, piece: Batch, who: str = "the model") -> Batch:
        for key, value in outputs.items():
            if not value.isfinite().all():
                raise self._not_a_number(f"what {who} gives as {key}", piece)
        return outputs

    def _not_a_number(self, what: str, batch: Batch) -> RunFailed:
        """The error that ends a run, once the batch is kept for whoever looks for the reason."""
        step = self.version + 1
        folder = dump(self.run.phase_folder / f"not-a-number-step-{step:06d}", batch)
        return RunFailed(f"step {step}: {what} is not a number; the groups were {', '.join(batch[IDS])}; see {folder}")


def _passed(piece: Batch) -> Batch:
    """What goes through a network of a piece."""
    return piece.only(READS)
