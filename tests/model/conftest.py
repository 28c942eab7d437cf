"""Small models of several families, made on the spot, and runs to build components in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from truing.bus import Bus
from truing.fields import LOGPROBS_REF, Group
from truing.run import Run
from truing_model.scratch import byte_tokenizer

FAMILIES = ("llama", "qwen2", "gpt2")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("test", tmp_path, 0, Bus(), wanted=frozenset([LOGPROBS_REF]))


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes the folder of a small model of a family, once."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            write_family(family, made[family])
        return made[family]

    return folder


def write_family(family: str, folder: Path) -> None:
    """Write a small model of a family and a byte tokenizer into a folder."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(1)
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": None}
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if family == "llama":
        model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **size, **ids))
    elif family == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, **size, **ids))
    else:
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
        still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape, **still, **ids))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def pairs(count: int = 5) -> list[Group]:
    """Groups of unequal lengths, one of them with three completions and two pairs, one with one-letter answers."""
    words = ["sun", "a long winding river", "x", "stone wall", "no"]
    groups = [
        Group(
            id=f"g{at}",
            prompt=[{"role": "user", "content": words[at % 5] * (at + 1)}],
            completions=[words[(at + 1) % 5], words[(at + 2) % 5] + "!"],
            pairs=[(0, 1)],
        )
        for at in range(count - 1)
    ]
    three = Group(id="three", prompt="plain text", completions=["a", "bb", "ccc"], pairs=[(0, 1), (2, 1)])
    return [*groups, three]
