"""A network in several processes: whole in each, or a share of every weight.

DistributedDataParallel and fully_shard are torch's own: on a CPU, accelerate turns the second into the first and says
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from truing.fields import Batch, Field
from truing_model.forward import Network


class Share(NamedTuple):
    """Which of `count` processes this is."""

    rank: int
    count: int

    def rows(self, size: int) -> slice:
        """Which rows of `size` it holds: as many as every other, but for the last ones."""
        each = -(-size // self.count)
        return slice(min(self.rank * each, size), min((self.rank + 1) * each, size))


class Door(nn.Module):
    """A network whose outputs torch can look into."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, piece: Batch) -> dict[Field[Tensor], Tensor]:
        """What the network gives of a piece."""
        return dict(self.network(piece))


def replicated(door: nn.Module) -> nn.Module:
    """A network that is whole in every process, with the weights of the first."""
    device = next(door.parameters()).device
    places = None if device.type == "cpu" else [device]
    known = signature(DistributedDataParallel).parameters
    # Buffers are alike and stay so. torch 2.11 knows the option by its old name.
    unsent = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
    return DistributedDataParallel(door, device_ids=places, gradient_as_bucket_view=True, **unsent)


def sharded(network: nn.Module) -> nn.Module:
    """A network of whose weights every process holds a share; a layer is whole while it computes. They are those of the
    first process."""
    for value in network.parameters():
        dist.broadcast(value.detach(), 0)
    mesh = init_device_mesh(next(network.parameters()).device.type, (dist.get_world_size(),))
    door = Door(network)
    for part in network.modules():
        # All processes put the same layer together at a time, so they must come to it equally often.
        if isinstance(part, Network) and part.call_layers():
            for layer in _layers(part):
                fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    return fully_shard(door, mesh=mesh, reshard_after_forward=True)


def local(value: Tensor) -> Tensor:
    """What this process holds of a weight."""
    return value.to_local() if isinstance(value, DTensor) else value


def like(value: Tensor, rows: Tensor) -> Tensor:
    """The rows that this process holds, as a tensor that is sharded as `value` is."""
    if not isinstance(value, DTensor):
        return rows
    made = partial(DTensor.from_local, device_mesh=value.device_mesh, placements=value.placements, run_check=False)
    return made(rows, shape=value.shape, stride=value.stride())


def _layers(network: Network) -> Iterator[nn.Module]:
    """Its layers, as transformers names their kind."""
    base: Any = network.base
    kinds = set(base._no_split_modules or ())
    return (part for part in base.modules() if type(part).__name__ in kinds)
