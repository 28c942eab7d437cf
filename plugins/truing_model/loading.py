"""Weights and tokenizer from wherever they are: a folder, the hub, or a GGUF file that is unpacked once and kept.

A GGUF file takes ten seconds and more to unpack, so what comes out is kept as safetensors under the cache folder
(TRUING_CACHE, else XDG_CACHE_HOME/truing, else ~/.cache/truing), named by the digest of the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from truing.errors import Problem, UserError
from truing.whole import write_whole
from truing_model.paths import AS_SAFETENSORS, local_path, strange
from truing_model.plugin import PretrainedSpec
from truing_model.state import told_by_the_disk
from truing_tensor.building import ONE_AT_A_TIME

logging.disable_progress_bar()

KIND = "reward_kind"
"""how the configuration of a model says that its numbers are no scores"""


def load_tokenizer(spec: PretrainedSpec, path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises UserError if there is none."""
    place, options = _place(spec, path)
    return _from(AutoTokenizer, place, options)


def load_model(spec: PretrainedSpec, path: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model in evaluation mode, weights in `dtype`. Raises UserError if there is none."""
    place, options = _place(spec, path)
    return _from(AutoModelForCausalLM, place, {**options, "dtype": dtype}).eval()


def load_scorer(spec: PretrainedSpec, path: str, dtype: torch.dtype, numbers: int) -> PreTrainedModel:
    """The model with so many numbers as its output; their head is new where its folder has none. Raises UserError."""
    place, options = _place(spec, path)
    before = logging.get_verbosity()
    # A head that is new is what was asked for, and nothing to be warned of.
    logging.set_verbosity_error()
    try:
        return _from(
            AutoModelForSequenceClassification, place, {**options, "dtype": dtype, "num_labels": numbers}
        ).eval()
    finally:
        logging.set_verbosity(before)


def numbers_of(spec: PretrainedSpec, path: str) -> int:
    """How many numbers a model gives a text as a whole; 0 if it has no head for that. Raises UserError."""
    place, options = _place(spec, path)
    config = _from(AutoConfig, place, options)
    scores = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    return config.num_labels if scores else 0


def width_of(spec: PretrainedSpec, path: str) -> int:
    """The width of a model's hidden states. Raises UserError."""
    return int(_from(AutoConfig, *_place(spec, path)).get_text_config().hidden_size)


def kind_of(spec: PretrainedSpec, path: str) -> str:
    """What reads the numbers that a model gives, by the name of its spec; "": they are scores. Raises UserError."""
    return str(getattr(_from(AutoConfig, *_place(spec, path)), KIND, ""))


def same_tokens(
    spec: PretrainedSpec,
    other: str,
    name: str,
    ours: PreTrainedTokenizerBase,
    mend: str = "name a reference with the same tokenizer",
) -> None:
    """Raises UserError if the model at `other`, called `name`, calls its tokens otherwise than that of `spec`."""
    theirs, words = load_tokenizer(spec, other).get_vocab(), ours.get_vocab()
    if theirs != words:
        apart = sum(theirs.get(word) != number for word, number in words.items())
        what = f"its vocabulary is not that of {spec.path}: {apart} of {len(words)} tokens differ"
        raise UserError(Problem(name, what, mend))


def origin(spec: PretrainedSpec, path: str) -> str:
    """The folder or hub id from which transformers loads the configuration and the tokenizer of a model."""
    return _place(spec, path)[0]


def _place(spec: PretrainedSpec, path: str) -> tuple[str, dict[str, Any]]:
    local = local_path(path)
    if local is not None and local.suffix == ".gguf":
        local = _unpacked(local)
    if local is not None and local.is_dir() and (what := strange(local)):
        raise UserError(Problem(path, what, AS_SAFETENSORS))
    options: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code}
    if local is None and spec.revision:
        options["revision"] = spec.revision
    return str(local or path), options


def _from(kind: Any, place: str, options: dict[str, Any]) -> Any:
    weights = {} if kind in (AutoTokenizer, AutoConfig) else {"use_safetensors": True}
    try:
        with ONE_AT_A_TIME:
            return kind.from_pretrained(place, **options, **weights)
    except (OSError, ValueError) as error:
        what = f"transformers cannot load it: {str(error).splitlines()[0]}"
        raise UserError(
            Problem(place, what, "give a folder or hub id of a causal language model with safetensors")
        ) from None


def _unpacked(file: Path) -> Path:
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()[:16]
    target = cache_folder() / "models" / f"{file.stem}-{digest}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, lambda folder: _unpack(file, folder))
    return target


def _unpack(file: Path, folder: Path) -> None:
    # Without dequantize the model counts as quantized: it can neither be trained nor saved.
    plain = GgufConfig(dequantize=True)
    where = {"gguf_file": file.name}
    # Its bar cannot be turned off, and would be drawn across the run's own.
    with ONE_AT_A_TIME, contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, **where, quantization_config=plain, dtype=torch.float32, trust_remote_code=False
        )
    with told_by_the_disk():
        model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **where, trust_remote_code=False).save_pretrained(folder)


def cache_folder() -> Path:
    """Where unpacked models are kept between runs."""
    if chosen := os.environ.get("TRUING_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "truing"
