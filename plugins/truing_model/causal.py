"""The causal language model: encodes, annotates, learns, and writes itself down.

    learn:   pieces of the step -> network -> loss on its outputs -> one backward each -> clip -> optimizer step

A loss that must see the whole step at once gets it: all pieces go forward without gradients, the loss says what it
wants changed in their outputs, and then each goes forward again to carry that back (the gradient cache of
arXiv:2101.06983, section 3). Nothing is changed until the last piece is through, so a request to stop costs nothing but
what was computed.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from truing.errors import Problem, RunFailed, UserError
from truing.events import Notice
from truing.fields import (
    COLLISION_ENTROPY,
    ENTROPY,
    GROUP,
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
from truing_model.costs import costs_of, tokens_at_once
from truing_model.encode import Encoder
from truing_model.forward import HEADS, Network, decoder_for
from truing_model.layout import Pieces, cut_into_pieces, only_some
from truing_model.loading import cache_folder, load_model, load_tokenizer, origin, width_of
from truing_model.lora import add_lora, merged
from truing_model.reference import ReferenceStore, by_group, fingerprint, group_keys, group_sizes
from truing_model.state import dump, load_heads, load_state, save_heads, save_state, trainable
from truing_model.step import StepSums, counts_of, surrogate
from truing_model.trunk import share
from truing_model.weights import ModelWeights
from truing_tensor.groups import take
from truing_tensor.machine import computes_in_bf16, keep_freed_memory

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
        torch.manual_seed(run.seed_for("model", run.phase))
        self.spec = spec
        self.run = run
        self.version = 0
        self.accelerator = Accelerator(cpu=spec.device == "cpu")
        if self.accelerator.num_processes > 1:
            raise RunFailed("truing trains in one process so far; start it without a launcher")
        if spec.trust_remote_code:
            whose = " and ".join(filter(None, (spec.path, spec.reference)))
            self._say(f"code that comes with the model {whose} is being run: trust_remote_code = true")
        self.device = self.accelerator.device
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
            self._check_reference()
        self.store = self._open_store(base) if LOGPROBS_REF in run.wanted else None
        if spec.gradient_checkpointing:
            # The older name goes in transformers 6, the newer came in 5.2x.
            enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
            enable({"use_reentrant": False})
            if decoder:
                decoder.checkpointing = True
        heads = self._heads(base)
        load_heads(Path(self.path), heads)
        model = add_lora(base, spec) if spec.lora_rank else base
        for head in heads.values():
            head.requires_grad_(True)
        if spec.lora_rank:
            share(model)
        self.network = Network(model, decoder, heads, self._gives(), self.bf16).to(self.device)
        self._drops = any(isinstance(part, nn.Dropout) and part.p > 0 for part in self.network.modules())

    def encode(self, batch: Batch) -> Encoded:
        """Text to tokens. Raises UserError for a token that the model has no weights for."""
        encoded = self.encode_text(batch)
        largest = max((int(part.max()) for part in _tokens(encoded.batch) if len(part)), default=0)
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
        found = self._look(self.network, batch)
        return batch.put_all({key: found[_AS_IT_IS[key]] for key in missing})

    def attach(self, optimizer: Optimizer, steps: int) -> None:
        """Prepare to learn for so many steps."""
        made, schedule = optimizer.over(trainable(self.network), steps)
        self.clip = optimizer.clip
        self.network, self.optimizer, self.scheduler = self.accelerator.prepare(self.network, made, schedule)

    def learn(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """One optimizer step. Raises Stopped with nothing changed, and RunFailed when something is not a number."""
        self.network.train()
        self.optimizer.zero_grad()
        sums = StepSums(counts_of(batch))
        step, known = self._cut(batch), None
        if _needs_all(loss, step):
            step, known = self._gradients_of_whole(batch, step, loss, sums)
        for index, piece in enumerate(step.batches):
            self._unless_stopped()
            last = index == len(step.batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.network):
                outputs = self._sound(self.network(piece), piece)
                at = step.places[index]
                gradients = _parts(known, at) if known else sums.gradient(loss, piece, outputs)
                self.accelerator.backward(surrogate(outputs, gradients))
        norm = self._gradient_norm()
        if not torch.isfinite(norm):
            raise self._not_a_number("the gradient", batch)
        rate = self.scheduler.get_last_lr()[0]
        self.optimizer.step()
        self.scheduler.step()
        self.version += 1
        tokens = float(len(batch[PROMPT_TOKENS]) + len(batch[TOKENS]))
        return {**sums.report(), "gradient_norm": float(norm), "learning_rate": rate, "tokens": tokens}

    def measure(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """The loss's terms and metrics on a batch, without learning. Raises Stopped."""
        sums = StepSums(counts_of(batch))
        sums.look(loss, batch, self._look(self.network, batch))
        return sums.report()

    def weights(self) -> ModelWeights:
        """Its weights as they are now; they are read before the next step is learned."""
        return ModelWeights(self.version, origin(self.spec, self.path), self._bare().model, self._reference_weights)

    def _reference_weights(self) -> ModelWeights:
        if self.spec.lora_rank and not self.reference_path:
            return ModelWeights(0, origin(self.spec, self.path), self._bare().model, adapted=False)
        return ModelWeights(0, origin(self.spec, self.reference_path or self.path), self.reference.model)

    def checkpoint(self, folder: Path) -> None:
        """Write what is needed to go on."""
        self._keep_reference()
        save_state(folder, self._bare(), self.optimizer, self.scheduler, self.version)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        self.version = load_state(folder, self._bare(), self.optimizer, self.scheduler)

    def export(self, folder: Path) -> Mapping[str, Any]:
        """Write a folder that transformers loads; with LoRA the merged model, and the adapter itself in `adapter/`."""
        self._keep_reference()
        model = self._bare().model
        # Counted now: an adapter that is merged has no weights left.
        trained = sum(value.numel() for value in trainable(self._bare()).values())
        if self.spec.lora_rank:
            model.save_pretrained(folder / "adapter")
            model = merged(model)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_heads(folder, self._bare().heads)
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

    def _bare(self) -> Network:
        return self.accelerator.unwrap_model(self.network)

    def _check_reference(self) -> None:
        """Refuse a reference that calls its tokens otherwise. Raises UserError."""
        theirs, ours = load_tokenizer(self.spec, self.reference_path).get_vocab(), self.tokenizer.get_vocab()
        if theirs != ours:
            apart = sum(theirs.get(word) != number for word, number in ours.items())
            what = f"its vocabulary is not that of {self.spec.path}: {apart} of {len(ours)} tokens differ"
            raise UserError(Problem(self.spec.reference, what, "name a reference with the same tokenizer"))

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
        with self._as_reference() as reference:
            return self._look(reference, batch, "the reference")[LOGPROBS]

    @cached_property
    def reference(self) -> Network:
        """The model that was named as the reference, else a frozen copy of this one as it was loaded; made when it is
        first asked something."""
        held = torch.bfloat16 if self.spec.reference_dtype == "bf16" else torch.float32
        model = self._load(self.reference_path or self.path, held).requires_grad_(False)
        if self.spec.reference_device != "auto":
            model.to(self.spec.reference_device)
        return Network(model, self._decoder(model), {}, fields(LOGPROBS), self._reference_in_bf16)

    @property
    def _reference_in_bf16(self) -> bool:
        asked = self.spec.reference_dtype
        return self.bf16 if asked == "auto" else asked == "bf16"

    @contextmanager
    def _as_reference(self) -> Iterator[nn.Module]:
        if self.spec.lora_rank and not self.reference_path:
            with self._bare().model.disable_adapter():
                yield self.network
        else:
            yield self.reference

    def _cut(self, batch: Batch) -> Pieces:
        return cut_into_pieces(batch, self.budget, self.costs)

    def _gradients_of_whole(
        self, batch: Batch, step: Pieces, loss: Loss, sums: StepSums
    ) -> tuple[Pieces, Mapping[Field[Tensor], Tensor]]:
        """The gradient of the loss with respect to the outputs of all pieces together, and what must go forward again
        to carry it back: a completion that it leaves alone, one that is there for an estimate, need not."""
        random = torch.get_rng_state(), torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        with torch.no_grad():
            outputs = self._together(self.network, step)
        # Dropout must be the same when the pieces go forward again; then they must be the same pieces, too.
        torch.set_rng_state(random[0])
        if random[1]:
            torch.cuda.set_rng_state_all(random[1])
        gradients = sums.gradient(loss, batch, outputs)
        taught = _taught(batch, gradients)
        if taught.all() or not taught.any() or self._drops:
            return step, gradients
        tokens = taught[batch[SEQ]]
        kept = {key: value[tokens if key.dims == "token" else taught] for key, value in gradients.items()}
        return self._cut(only_some(batch, taught)), kept

    def _together(self, network: nn.Module, step: Pieces, who: str = "the model") -> Batch:
        """The outputs of all pieces, put in the order of the step."""
        found: dict[Field[Tensor], Tensor] = {}
        for piece, at in zip(step.batches, step.places, strict=True):
            self._unless_stopped()
            for key, value in self._sound(network(piece), piece, who).items():
                size = sum(len(places[key.dims]) for places in step.places)
                whole = found.setdefault(key, torch.empty(size, *value.shape[1:]))
                whole[at[key.dims]] = value.float().cpu()
        return Batch(found)

    def _look(self, network: nn.Module, batch: Batch, who: str = "the model") -> Batch:
        """What a network gives of a batch, without gradients and without dropout."""
        network.eval()
        with torch.no_grad():
            return self._together(network, self._cut(batch), who)

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

    def _gradient_norm(self) -> torch.Tensor:
        limit = self.clip or float("inf")
        return torch.as_tensor(self.accelerator.clip_grad_norm_(self.network.parameters(), limit))


def _needs_all(loss: Loss, step: Pieces) -> bool:
    """Whether a loss must see all pieces at once: it says so, or some group is in two of them."""
    if len(step.batches) == 1:
        return False
    return getattr(loss, "whole_step", False) or (step.cut and not getattr(loss, "by_completion", False))


def _parts(whole: Mapping[Field[Tensor], Tensor], at: Mapping[str, Tensor]) -> Mapping[Field[Tensor], Tensor]:
    return {key: value[at[key.dims]] for key, value in whole.items()}


def _taught(batch: Batch, gradients: Mapping[Field[Tensor], Tensor]) -> Tensor:
    """Which completions [seq] some gradient reaches; all of them where one runs along anything but them."""
    taught = torch.zeros(len(batch[GROUP]), dtype=torch.bool)
    for key, value in gradients.items():
        if key.dims == "token":
            taught |= torch.zeros(len(taught)).index_add(0, batch[SEQ], (value != 0).float()) > 0
        else:
            taught |= (value != 0).reshape(len(taught), -1).any(1) if key.dims == "seq" else torch.ones_like(taught)
    return taught


def _tokens(batch: Batch) -> tuple[Tensor, Tensor]:
    return batch[PROMPT_TOKENS], batch[TOKENS]
