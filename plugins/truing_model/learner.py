"""What one process does of a step: pieces go forward and back through a network, and the optimizer moves.

A model that learns in several processes has a learner in each, and its crew has all of them do the same at a time.
Nothing here knows of losses: what comes in is a piece, and then the gradient of the step's loss at what came out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from truing.fields import Batch
from truing.stage import Optimizer
from truing_model.dropout import LUCK
from truing_model.sharding import Door, Share, replicated, sharded
from truing_model.state import load_state, save_state, trainable
from truing_model.step import surrogate
from truing_tensor.machine import Tidy, give_freed_memory_back

MODEL, REFERENCE = "model", "reference"
Networks = Callable[[str], AbstractContextManager[nn.Module]]
"""The network of the model, or of its reference, as it is to be used meanwhile."""


class Whole(NamedTuple):
    """A weight of a network, put together from its shares."""

    module: nn.Module
    name: str
    value: nn.Parameter


class Learner:
    """The learning of one process. share: which part of the weights it holds, of how many. steps: taken so far.
    keeping: what stands around a pass that gradients follow."""

    def __init__(self, networks: Networks, keeping: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        self._networks = networks
        self._keeping = keeping
        self._make_door: Callable[[nn.Module], nn.Module] = Door
        self._doors: dict[int, nn.Module] = {}
        self._outputs = Batch()
        self._tidy = Tidy()
        self.share = Share(0, 1)
        self.optimizer_of: Optimizer | None = None

    def attach(self, steps: int, kind: str, rank: int, count: int) -> None:
        """Prepare to learn for so many steps, as one of `count` processes. All of them are asked at the same time."""
        assert self.optimizer_of, "the optimizer is known before"
        self.share = Share(rank, count)
        if kind == "fsdp":
            give_freed_memory_back()
            self._make_door = sharded
            self._doors.clear()
        with self._networks(MODEL) as network:
            self._network = network
            self._through = replicated(self._door(network)) if kind == "ddp" else self._door(network)
        self.optimizer, self.schedule = self.optimizer_of.over(trainable(network), steps)

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return self.schedule.last_epoch

    def begin(self) -> None:
        """Forget the gradients of before."""
        self._through.train()
        self.optimizer.zero_grad()
        self._tidy.up()

    def forward(self, piece: Batch, last: bool) -> Batch:
        """What the network gives of a piece, for the gradient at it to follow. last: the gradients of all processes
        meet behind it."""
        # What DistributedDataParallel reads, and sets itself where a `with` can stand around both passes.
        self._through.require_backward_grad_sync = last
        with self._keeping():
            self._outputs = Batch(self._through(piece))
        return Batch({key: value.detach() for key, value in self._outputs.items()})

    def backward(self, gradients: Batch) -> None:
        """Carry back the gradient at what was given. One that is empty is 0: the piece was here to keep step."""
        found = gradients or Batch({key: torch.zeros_like(value) for key, value in self._outputs.items()})
        total = surrogate(self._outputs, found)
        # The gradients of the processes are averaged where they meet, and are to be added.
        (total * self.share.count if self.share.count > 1 else total).backward()
        self._outputs = Batch()

    def norm(self) -> Tensor:
        """The norm of the step's gradient, which is clipped."""
        assert self.optimizer_of
        limit = self.optimizer_of.clip or float("inf")
        found = torch.nn.utils.clip_grad_norm_(self._network.parameters(), limit)
        return found.full_tensor() if isinstance(found, DTensor) else found

    def move(self) -> float:
        """The optimizer's step; the learning rate it was taken at."""
        rate = float(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.schedule.step()
        return rate

    def look(self, who: str, piece: Batch) -> Batch:
        """What a network gives of a piece, without gradients; without dropout, unless its completions have LUCK."""
        with self._networks(who) as network, torch.no_grad():
            return Batch(self._door(network).train(LUCK in piece)(piece))

    def save(self, folder: str, version: int) -> None:
        """Write what is needed to go on: this process's share of it."""
        save_state(Path(folder), self._network, self.optimizer, self.schedule, version, self.share)

    def load(self, folder: str) -> int:
        """Go on from what so many processes or others wrote; the version it was."""
        return load_state(Path(folder), self._network, self.optimizer, self.schedule, self.share)

    def gather(self, who: str, keep: bool) -> list[Whole]:
        """Put the weights of a network together, one after another: for the process that keeps them, in its own
        memory."""
        kept: list[Whole] = []
        known: dict[int, nn.Parameter] = {}
        with self._networks(who) as network:
            self._door(network)
            for module in network.modules():
                for name, value in module._parameters.items():
                    if not isinstance(value, DTensor):
                        continue
                    # A weight that is tied is met again, by all of them.
                    if id(value) not in known:
                        found = value.full_tensor()
                        known[id(value)] = nn.Parameter(found.cpu() if keep else found[:0], value.requires_grad)
                    kept.append(Whole(module, name, known[id(value)]))
        return kept

    def _door(self, network: nn.Module) -> nn.Module:
        if id(network) not in self._doors:
            self._doors[id(network)] = self._make_door(network)
        return self._doors[id(network)]


@contextmanager
def in_place(whole: list[Whole]) -> Iterator[None]:
    """The weights as a whole in a network meanwhile."""
    before: list[Any] = [each.module._parameters[each.name] for each in whole]
    for each in whole:
        each.module._parameters[each.name] = each.value
    try:
        yield
    finally:
        for each, value in zip(whole, before, strict=True):
            each.module._parameters[each.name] = value
