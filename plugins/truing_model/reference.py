"""Log-probabilities of the reference, computed once per group and kept.

The reference does not change, so what it says of a group is looked up by what was asked: the tokens of the group, of
these weights, in this precision. Answers are kept in the cache folder; they serve later epochs, a resume, and other
runs on the same data and model. What cannot be read or written is said, and computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from truing.fields import GROUP, HEARD, HEARD_BEFORE, IDS, PROMPT_GROUP, PROMPT_TOKENS, SEQ, TOKENS, Batch

FLUSH = 256
"""how many new answers are held before they are written"""
_SAMPLE = 1024


class ReferenceStore:
    """The answers of one reference. say: told what went wrong with a file."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._known: dict[str, Tensor] = {}
        self._new: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            try:
                self._known |= load_file(file)
            except (SafetensorError, OSError) as error:
                say(f"{file} cannot be read ({error}): its reference log-probabilities are computed again")
                file.unlink()

    def get(self, key: str, size: int) -> Tensor | None:
        """Log-probabilities [token] of a group with `size` completion tokens; None if they are not known."""
        found = self._known.get(key)
        return found if found is not None and len(found) == size and bool(found.isfinite().all()) else None

    def put(self, key: str, logprobs: Tensor) -> None:
        """Keep an answer; it is written with the next few hundred."""
        self._known[key] = self._new[key] = logprobs.clone()
        if len(self._new) >= FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write what is new into a file of its own, put in place whole, so that two runs never spoil each other's."""
        if not self._new:
            return
        name = hashlib.blake2b("".join(sorted(self._new)).encode(), digest_size=8).hexdigest()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            waiting = self._folder / f"{name}.part"
            save_file(self._new, waiting)
            waiting.replace(self._folder / f"{name}.safetensors")
        except (SafetensorError, OSError) as error:
            self._say(f"cannot keep reference log-probabilities in {self._folder}: {error}")
        self._new = {}


def group_keys(batch: Batch) -> list[str]:
    """What each group asks of the reference: a digest of its prompt's tokens and of each of its completions', and of
    what was heard in front of which of them."""
    prompts = batch[PROMPT_TOKENS].split(torch.bincount(batch[PROMPT_GROUP], minlength=len(batch[IDS])).tolist())
    answers = batch[TOKENS].split(torch.bincount(batch[SEQ], minlength=len(batch[GROUP])).tolist())
    asked = [[prompt.tolist()] for prompt in prompts]
    for group, answer in zip(batch[GROUP].tolist(), answers, strict=True):
        asked[group].append(answer.tolist())
    if HEARD in batch:
        seq = batch[SEQ][batch[HEARD_BEFORE]]
        group = batch[GROUP][seq]
        place = seq - torch.searchsorted(batch[GROUP], group)
        before = batch[HEARD_BEFORE] - torch.searchsorted(batch[SEQ], seq)
        for at, *told in zip(group.tolist(), place.tolist(), before.tolist(), batch[HEARD].tolist(), strict=True):
            asked[at].append(told)
    return [hashlib.blake2b(msgspec.json.encode(tokens), digest_size=16).hexdigest() for tokens in asked]


def group_sizes(batch: Batch) -> list[int]:
    """How many completion tokens each group has."""
    return torch.bincount(batch[GROUP][batch[SEQ]], minlength=len(batch[IDS])).tolist()


def by_group(batch: Batch, values: Tensor) -> Iterator[Tensor]:
    """A [token] tensor of a batch, one piece per group."""
    yield from values.split(group_sizes(batch))


@torch.no_grad()
def fingerprint(model: nn.Module, *how: object) -> str:
    """A name for these weights and for `how` they are used: every tensor's shape, its sum, a sample of its values."""
    state = hashlib.blake2b(repr(how).encode(), digest_size=12)
    for name, value in model.state_dict().items():
        flat = value.flatten()
        sample = flat[:: max(1, len(flat) // _SAMPLE)].double().cpu()
        state.update(f"{name} {tuple(value.shape)} {float(flat.double().sum())}".encode())
        state.update(sample.numpy().tobytes())
    return state.hexdigest()
