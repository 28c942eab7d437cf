"""A device that is not there, and the models of PPO but the policy on it. To be run by itself.

Its tensors compute on the CPU, say that they are elsewhere, and refuse to meet those that are not: as a GPU's do.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import torch
from torch import Tensor
from torch.library import Library
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as set_up

from truing.bus import Bus
from truing.fields import ADVANTAGES, GROUP, LOGPROBS_REF, SCORES, VALUES_OLD, VERSION
from truing.run import Run
from truing_model import causal
from truing_model.menu_policy import Policy
from truing_model.plugin import RewardModel, RewardScorer
from truing_policy.plugin import Gae, Ppo
from truing_tensor.groups import batch_of

from .conftest import pairs

CPU, THERE = torch.device("cpu"), "elsewhere"
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Backend:
    """What torch asks a device for."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        pass


class There(Tensor):
    """A tensor that says it is elsewhere."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        where = torch.device(THERE, 0)
        like = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype, "device": where}
        made = Tensor._make_wrapper_subclass(cls, held.shape, **like)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Pretend(TorchDispatchMode):
    """Meanwhile there is such a device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: Any) -> Any:
    asked = kwargs.get("device")
    given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    places = {isinstance(value, There) for value in given if value.ndim}
    assert len(places) < 2 or func in MOVES, f"{func} of tensors on two devices"
    there = asked.type == THERE if asked else any(isinstance(value, There) for value in given)
    if asked:
        kwargs = {**kwargs, "device": CPU}
    args, kwargs = tree_map(lambda value: value.held if isinstance(value, There) else value, (args, kwargs))
    found = func(*args, **kwargs)
    if found is None or func._schema.is_mutable:
        return given[0] if found is not None else None
    return tree_map(lambda value: There(value) if there and isinstance(value, Tensor) else value, found)


def copied(source: Any, target: Any, non_blocking: bool = False) -> Any:
    getattr(target, "held", target).copy_(getattr(source, "held", source))
    return target


def said(folder: str, place: Path, device: Any) -> list[Tensor]:
    """What reward model, reference and critic say of a batch. device: of all but the policy."""
    run = Run("test", place, 0, Bus(), wanted=Ppo().requires())
    plain: dict[str, Any] = {"dtype": "fp32", "path": folder}
    critic = RewardModel(device=device, **plain)
    spec = Policy(device="cpu", reference_device=device, critic=critic, advantage=Gae(kl=0.1), **plain)
    policy: Any = spec.build(run)
    scorer: Any = RewardScorer(device=device, **plain).build(run)
    for network in (scorer._model.network, policy.reference, policy.network.critic):
        assert {value.device.type for value in network.parameters()} == {THERE if device == "cuda" else "cpu"}
    batch = policy.encode(batch_of(pairs())).batch
    batch = anyio.run(scorer.score, batch.put(VERSION, torch.zeros(len(batch[GROUP]), dtype=torch.int64)))
    batch = policy.annotate(batch, Ppo().requires())
    return [batch[SCORES], batch[LOGPROBS_REF], batch[VALUES_OLD], batch[ADVANTAGES]]


if __name__ == "__main__":
    set_up(THERE, backend_module=Backend)
    causal.device_for = lambda wanted: torch.device(THERE, 0) if wanted == "cuda" else CPU
    # What torch asks for by itself, behind the back of a mode: places of an index that is a list.
    made = Library("aten", "IMPL")
    for name in ("empty_strided", "empty.memory_format"):
        func = getattr(torch.ops.aten, name.partition(".")[0])
        made.impl(name, lambda *args, f=func, **kwargs: There(f(*args, **{**kwargs, "device": CPU})), "PrivateUse1")
    made.impl("_copy_from", copied, "PrivateUse1")
    here = said(sys.argv[1], Path(sys.argv[2]), "cpu")
    with Pretend():
        there = said(sys.argv[1], Path(sys.argv[2]), "cuda")
    print(max(float((one - other).abs().max()) for one, other in zip(here, there, strict=True)))
