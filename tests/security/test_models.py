"""Models from strangers: their folders hold weights, and nothing in them is run, read elsewhere, or asked about."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from jinja2.exceptions import SecurityError
from safetensors import safe_open
from tests.model.conftest import write_family

from truing.bus import Bus
from truing.cli import main
from truing.errors import UserError
from truing.events import Event, Notice
from truing.run import Run
from truing_generate.voices import Voice
from truing_model.plugin import CausalLm
from truing_texts.chat import Chat

CODE = """
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
pathlib.Path({mark!r}).touch()
class Own(LlamaConfig):
    model_type = "own"
class OwnLm(LlamaForCausalLM):
    config_class = Own
class OwnWords(PreTrainedTokenizerFast):
    pass
"""


class Payload:
    """What a pickle does when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.mark,)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    write_family("llama", folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A model of one's own to spoil. `executed`, beside it, is what a trap leaves."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def load(folder: Path, **options: Any) -> list[Event]:
    """Build the model that learns; what was said meanwhile."""
    said: list[Event] = []
    CausalLm(path=str(folder), device="cpu", **options).build(Run("test", folder, 0, Bus(keep=said.append)))
    return said


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def with_code(folder: Path, mark: Path) -> None:
    """A model that brings code for its configuration and its weights."""
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    edit(
        folder / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnLm"},
    )


def with_code_for_words(folder: Path, mark: Path) -> None:
    """A model whose tokenizer brings code."""
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    edit(
        folder / "tokenizer_config.json", tokenizer_class="OwnWords", auto_map={"AutoTokenizer": [None, "own.OwnWords"]}
    )


def pickled(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Payload(mark)}))


def with_a_pickled_adapter(folder: Path, mark: Path) -> None:
    told = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": str(folder)}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({"x": Payload(mark)}))


def indexed(folder: Path, place: Path, written: str) -> None:
    """A model whose weights are in another place, which its index names."""
    shutil.move(folder / "model.safetensors", place)
    with safe_open(place, "pt") as weights:
        told = dict.fromkeys(weights.keys(), written)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": told}))


@pytest.mark.parametrize("spoil", [pickled, with_a_pickled_adapter, with_code, with_code_for_words])
def test_nothing_that_comes_with_a_model_is_run_unless_the_recipe_says_so(
    folder: Path, mark: Path, spoil: Callable[[Path, Path], None]
) -> None:
    spoil(folder, mark)
    with pytest.raises(UserError):
        load(folder)
    assert not mark.exists()


def test_a_model_that_is_only_pickled_is_refused_before_a_run_begins_and_told_how_to_be_mended(
    folder: Path, mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pickled(folder, mark)
    recipe = tmp_path / "recipe.toml"
    tables = {"source": 'use = "reasoning-gym"', "optimizer": 'use = "adamw"', "loss": 'use = "sft"'}
    tables["model"] = f'use = "causal-lm"\npath = "{folder}"'
    recipe.write_text("".join(f"[{name}]\n{text}\n" for name, text in tables.items()))
    with pytest.raises(SystemExit) as left:
        main(["check", str(recipe)])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "has its weights in pytorch_model.bin, and a pickle can run code" in said
    assert "save_pretrained" in said


def test_code_that_the_recipe_allows_is_said_aloud_and_run(folder: Path, mark: Path) -> None:
    with_code(folder, mark)
    said = [event.text for event in load(folder, trust_remote_code=True) if isinstance(event, Notice)]
    assert mark.exists()
    assert f"code that comes with the model {folder} is being run: trust_remote_code = true" in said


@pytest.mark.parametrize("who", ["engine", "chat"])
def test_nobody_is_asked_at_the_terminal_whether_code_may_run(
    folder: Path, mark: Path, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "y")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    if who == "engine":
        with_code(folder, mark)
        with pytest.raises(UserError, match="custom code"):
            Voice(str(folder), "fp32", torch.device("cpu"))
    else:
        with_code_for_words(folder, mark)
        with pytest.raises(ValueError, match="custom code"):
            Chat(str(folder), "[generator]")
    assert asked == []
    assert not mark.exists()


@pytest.mark.parametrize("place", ["..", "absolute", "link"])
def test_an_index_names_files_beside_it_and_no_others(folder: Path, tmp_path: Path, place: str) -> None:
    if place == "link":
        # As the Hub's cache has them: the name is beside the index, wherever it leads.
        indexed(folder, tmp_path / "weights", "model-1.safetensors")
        (folder / "model-1.safetensors").symlink_to(tmp_path / "weights")
        load(folder)
        return
    outside = tmp_path / "outside.safetensors"
    indexed(folder, outside, "../outside.safetensors" if place == ".." else str(outside))
    with pytest.raises(UserError, match=r"outside\.safetensors, which is no file beside it"):
        load(folder)


@pytest.mark.parametrize("index", ["", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_is_none_is_refused_with_its_name(folder: Path, index: str) -> None:
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match="is no index of weights"):
        load(folder)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.mkdir('%s') }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_chat_template_stays_in_its_sandbox(folder: Path, mark: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template.replace("%s", str(mark)))
    with pytest.raises(SecurityError):
        Chat(str(folder), "[generator]").tokens([{"role": "user", "content": "hello"}])
    assert not mark.exists()


@pytest.mark.parametrize("path", ["pkg:truing/../../secret", "pkg:truing//etc"])
def test_a_path_in_a_package_does_not_lead_out_of_it(path: str) -> None:
    (fault,) = CausalLm(path=path).problems()
    assert "leads out of the package" in fault.what
