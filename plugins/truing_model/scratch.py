"""Small models with fresh weights, and a tokenizer that needs no training: one token per byte."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from truing.run import Run
from truing.whole import write_whole
from truing_model import plugin
from truing_model.causal import CausalLm
from truing_model.state import told_by_the_disk
from truing_tensor.building import ONE_AT_A_TIME

_END = "<|end|>"
_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}" + _END + "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def scratch_lm(spec: plugin.ScratchLm, run: Run) -> CausalLm:
    """Write a fresh model into the phase's folder, the same for the same seed, and learn with it."""
    folder = run.phase_folder / "scratch"
    if not folder.exists():
        write_whole(folder, lambda place: write_scratch(place, spec, run.seed_for("scratch", run.phase)))
    shared = {name: getattr(spec, name) for name in plugin.LanguageModelSpec.__struct_fields__}
    return CausalLm(msgspec.convert({**shared, "path": str(folder)}, plugin.CausalLm), run)


def write_scratch(folder: Path, spec: plugin.ScratchLm, seed: int) -> None:
    """Write a model with random weights and its tokenizer into a folder."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=spec.width,
        intermediate_size=4 * spec.width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        max_position_embeddings=max(spec.max_tokens, 2048),
        initializer_range=spec.deviation,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    with ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with told_by_the_disk():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """256 bytes, the marks of the chat roles, and an end mark; with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = [_END, "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(
        models.BPE(vocab={symbol: index for index, symbol in enumerate([*alphabet, *marks])}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(marks)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END, chat_template=_TEMPLATE)
