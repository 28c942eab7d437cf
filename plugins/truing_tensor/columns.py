"""A batch as it travels between processes: column by column, tensors as their bytes. Nothing is pickled."""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from torch import Tensor

from truing.errors import RunFailed
from truing.fields import Batch, Field, Fields


class Column(msgspec.Struct, array_like=True):
    """A field of a batch. tensor: type and shape, and then `value` is its bytes; else it is msgpack."""

    field: tuple[str, str, str, str]
    tensor: tuple[str, list[int]] | None
    value: bytes


def columns_of(batch: Batch, needed: Fields) -> list[Column]:
    """A batch as it travels. What is needed must, and of the rest goes what can. Raises RunFailed."""
    columns: list[Column] = []
    for key, value in batch.items():
        try:
            columns.append(_column(key, value))
        except TypeError as error:
            if key in needed:
                raise RunFailed(f"{key} cannot be sent to another process: {error}") from None
    return columns


def batch_of(columns: list[Column]) -> Batch:
    """The batch that travelled."""
    return Batch({Field(*column.field): _value(column) for column in columns})


def _place(field: Field[Any]) -> tuple[str, str, str, str]:
    return field.name, field.dims, field.dtype, field.into


def name_of(dtype: torch.dtype) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def _column(key: Field[Any], value: Any) -> Column:
    if not isinstance(value, Tensor):
        return Column(_place(key), None, msgspec.msgpack.encode(value))
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return Column(_place(key), (name_of(value.dtype), list(value.shape)), flat.numpy().tobytes())


def _value(column: Column) -> Any:
    if column.tensor is None:
        return msgspec.msgpack.decode(column.value)
    dtype, shape = getattr(torch, column.tensor[0]), column.tensor[1]
    return (
        torch.frombuffer(bytearray(column.value), dtype=dtype).reshape(shape)
        if column.value
        else torch.empty(shape, dtype=dtype)
    )
