"""The causal language model: encodes, annotates, learns, and writes itself down.

    learn:   micro-batches -> forward -> loss on its outputs -> one backward each -> clip -> optimizer step

Nothing is changed until the last micro-batch is through, so a request to stop between two of them costs nothing but
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from truing.errors import RunFailed
from truing.events import Notice
from truing.fields import IDS, LOGPROBS, LOGPROBS_REF, PROMPT_TOKENS, TOKENS, Batch, Fields
from truing.run import Run, Stopped
from truing.stage import Encoded, Loss, Optimizer
from truing_model import plugin
from truing_model.encode import Encoder
from truing_model.forward import LAYOUTS, Policy, choose_layout
from truing_model.layout import micro_batches
from truing_model.loading import cache_folder, load_model, load_tokenizer
from truing_model.lora import add_lora, merged
from truing_model.machine import bf16_is_faster, keep_freed_memory
from truing_model.reference import ReferenceStore, by_group, fingerprint, group_keys, group_sizes
from truing_model.state import load_state, save_state, trainable
from truing_model.step import StepSums, counts_of, surrogate
from truing_tensor.groups import join, take


class CausalLm:
    """A causal language model that learns. version: optimizer steps taken."""

    def __init__(self, spec: plugin.CausalLm, run: Run) -> None:
        keep_freed_memory()
        torch.manual_seed(run.seed_for("model", run.phase))
        self.spec = spec
        self.run = run
        self.version = 0
        self.accelerator = Accelerator(cpu=spec.device == "cpu")
        if self.accelerator.num_processes > 1:
            raise RunFailed("truing trains in one process so far; start it without a launcher")
        if spec.trust_remote_code:
            self._say(f"code that comes with the model {spec.path} is being run")
        self.device = self.accelerator.device
        self.bf16 = spec.dtype == "bf16" or (spec.dtype == "auto" and bf16_is_faster(self.device.type))
        self.path = run.resolve(spec.path)
        tokenizer = load_tokenizer(spec, self.path)
        self.tokenizer = tokenizer
        self.encode_text = Encoder(tokenizer, spec.max_tokens, spec.overlong == "truncate")
        # Frozen weights lose nothing by being held in the type they are computed in; those that learn stay fp32.
        held = torch.bfloat16 if self.bf16 and spec.lora_rank else torch.float32
        base = load_model(spec, self.path, held).to(self.device)
        self.layout = spec.layout if spec.layout != "auto" else choose_layout(base, spec.max_tokens)
        # Before an adapter changes the names of its weights: the reference is the model as it was loaded.
        self.store = self._open_store(base) if LOGPROBS_REF in run.wanted else None
        if spec.gradient_checkpointing:
            # The older name goes in transformers 6, the newer came in 5.2x.
            enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        model = add_lora(base, spec) if spec.lora_rank else base
        self.policy = self._policy(model)

    def encode(self, batch: Batch) -> Encoded:
        """Text to tokens."""
        return self.encode_text(batch)

    def annotate(self, batch: Batch, wanted: Fields) -> Batch:
        """Add LOGPROBS_REF [token] if wanted: what the loss needs and learning does not change. Raises Stopped."""
        if LOGPROBS_REF not in wanted:
            return batch
        assert self.store, "built for a phase that needs no reference"
        keys, sizes = group_keys(batch), group_sizes(batch)
        missing = [
            at for at, (key, size) in enumerate(zip(keys, sizes, strict=True)) if self.store.get(key, size) is None
        ]
        if missing:
            unknown = take(batch, missing)
            with self._as_reference() as reference:
                found = join([self._look(reference, piece) for piece in self._pieces(unknown)])
            if not found[LOGPROBS].isfinite().all():
                raise RunFailed(f"the reference gives no numbers; the groups were {', '.join(unknown[IDS])}")
            for at, logprobs in zip(missing, by_group(unknown, found[LOGPROBS]), strict=True):
                self.store.put(keys[at], logprobs)
        known = [self.store.get(key, size) for key, size in zip(keys, sizes, strict=True)]
        return batch.put(LOGPROBS_REF, torch.cat([logprobs for logprobs in known if logprobs is not None]))

    def attach(self, optimizer: Optimizer, steps: int) -> None:
        """Prepare to learn for so many steps."""
        made, schedule = optimizer.over(trainable(self.policy), steps)
        self.clip = optimizer.clip
        self.policy, self.optimizer, self.scheduler = self.accelerator.prepare(self.policy, made, schedule)

    def learn(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """One optimizer step. Raises Stopped with nothing changed, and RunFailed when the loss is not a number."""
        self.policy.train()
        self.optimizer.zero_grad()
        sums = StepSums(counts_of(batch))
        pieces = self._pieces(batch)
        for index, piece in enumerate(pieces):
            self._unless_stopped()
            last = index == len(pieces) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.policy):
                outputs = self.policy(piece)
                gradients = sums.gradient(loss, piece, outputs)
                self.accelerator.backward(surrogate(outputs, gradients))
        norm = self._gradient_norm()
        if not torch.isfinite(norm):
            groups = ", ".join(batch[IDS])
            raise RunFailed(
                f"step {self.version + 1}: the gradient is not a number; the groups of the step were {groups}"
            )
        rate = self.scheduler.get_last_lr()[0]
        self.optimizer.step()
        self.scheduler.step()
        self.version += 1
        tokens = float(len(batch[PROMPT_TOKENS]) + len(batch[TOKENS]))
        return {**sums.report(), "gradient_norm": float(norm), "learning_rate": rate, "tokens": tokens}

    def measure(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """The loss's terms and metrics on a batch, without learning. Raises Stopped."""
        sums = StepSums(counts_of(batch))
        for piece in self._pieces(batch):
            sums.look(loss, piece, self._look(self.policy, piece))
        return sums.report()

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
        if self.spec.lora_rank:
            model.save_pretrained(folder / "adapter")
            model = merged(model)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return {
            "architecture": type(model).__name__,
            "parameters": sum(value.numel() for value in model.parameters()),
            "trained": sum(value.numel() for value in trainable(self._bare()).values()),
            "precision": "bf16" if self.bf16 else "fp32",
            "layout": self.layout,
            "device": self.device.type,
            "lora_rank": self.spec.lora_rank,
            "steps": self.version,
            "from": self.spec.path,
        }

    def _policy(self, model: nn.Module) -> Policy:
        return Policy(model, LAYOUTS[self.layout], self.bf16)

    def _bare(self) -> Policy:
        return self.accelerator.unwrap_model(self.policy)

    def _open_store(self, base: nn.Module) -> ReferenceStore:
        name = fingerprint(base, self.bf16, self.layout)
        return ReferenceStore(cache_folder() / "reference" / name, self._say)

    def _keep_reference(self) -> None:
        if self.store:
            self.store.flush()

    def _say(self, text: str) -> None:
        self.run.bus.publish(Notice(phase=self.run.phase, text=text))

    @cached_property
    def reference(self) -> Policy:
        """A frozen copy of the model as it was loaded, made when it is first asked something."""
        model = load_model(self.spec, self.path, torch.float32).to(self.device)
        return self._policy(model.requires_grad_(False))

    @contextmanager
    def _as_reference(self) -> Iterator[nn.Module]:
        if self.spec.lora_rank:
            with self._bare().model.disable_adapter():
                yield self.policy
        else:
            yield self.reference

    def _pieces(self, batch: Batch) -> list[Batch]:
        budget = self.spec.micro_tokens or (8192 if self.device.type == "cuda" else 512)
        return list(micro_batches(batch, budget))

    def _unless_stopped(self) -> None:
        if self.run.stop:
            raise Stopped

    def _look(self, policy: nn.Module, piece: Batch) -> Batch:
        self._unless_stopped()
        policy.eval()
        with torch.no_grad():
            outputs: Batch = policy(piece)
        return Batch({key: value.cpu() for key, value in outputs.items()})

    def _gradient_norm(self) -> torch.Tensor:
        limit = self.clip or float("inf")
        return torch.as_tensor(self.accelerator.clip_grad_norm_(self.policy.parameters(), limit))
