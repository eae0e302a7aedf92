"""What ranks hold of tensors, and a copy of it in host memory that training cannot change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holmes.runtime.checkpoint.manifest import ITEM_BYTES, Box, volume


@dataclass(frozen=True)
class Shard:
    """What one rank holds of a tensor: elements [start, stop) of it, flattened.

    With ``box`` (a half-open interval of every dimension) the rank holds that part of the
    tensor, and the interval counts the elements of the flattened part.

    Raises:
        ValueError: when the interval does not fit the tensor, the box or the global shape.
    """

    tensor: Tensor
    global_shape: tuple[int, ...]
    start: int
    stop: int
    box: Box | None = None

    def __post_init__(self) -> None:
        if self.box is not None:
            inside = zip(self.box, self.global_shape, strict=True)
            if not all(0 <= low < high <= size for (low, high), size in inside):
                raise ValueError(f"{self.box} is outside {self.global_shape}")
        elements = volume(self.box) if self.box else math.prod(self.global_shape)
        if not 0 <= self.start <= self.stop <= elements:
            raise ValueError(f"[{self.start}, {self.stop}) is outside {self.global_shape}")
        if self.tensor.numel() != self.stop - self.start:
            raise ValueError(
                f"{self.tensor.numel()} elements for the interval [{self.start}, {self.stop})"
            )


def torch_dtype(name: str) -> torch.dtype:
    """The torch type of a name of :data:`ITEM_BYTES`."""
    found: torch.dtype = getattr(torch, name)
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """The manifest's name of a torch type.

    Raises:
        ValueError: for a type that checkpoints do not hold.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in ITEM_BYTES:
        raise ValueError(f"tensors of type {dtype} are not stored")
    return name


class Snapshot:
    """Shards in host memory. The buffers stay from one save to the next.

    Touching new memory costs more than copying into it, so only the first save pays that.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, shards: Mapping[str, Shard]) -> dict[str, Shard]:
        """A copy of the shards, valid until the next call; empty ones are left out."""
        taken = {}
        for name, shard in shards.items():
            if shard.start == shard.stop:
                continue
            source = shard.tensor.detach().reshape(-1)
            buffer = self._buffers.get(name)
            if buffer is None or (buffer.shape, buffer.dtype) != (source.shape, source.dtype):
                buffer = torch.empty(source.shape, dtype=source.dtype, device="cpu")
                self._buffers[name] = buffer
            taken[name] = _with(shard, buffer.copy_(source))
        return taken


def on_host(shards: Mapping[str, Shard]) -> dict[str, Shard]:
    """The shards in host memory, not copied where they are there already; empty ones left out."""
    return {
        name: _with(shard, shard.tensor.detach().reshape(-1).to("cpu").contiguous())
        for name, shard in shards.items()
        if shard.start < shard.stop
    }


def _with(shard: Shard, flat: Tensor) -> Shard:
    return Shard(flat, shard.global_shape, shard.start, shard.stop, shard.box)


def bytes_of(flat: Tensor) -> memoryview:
    """The bytes of a contiguous tensor in host memory, not copied."""
    return flat.view(torch.uint8).numpy().data.cast("B")


def tensor_of(data: bytearray, dtype: str) -> Tensor:
    """A flat tensor over the bytes, not copied."""
    if not data:
        return torch.empty(0, dtype=torch_dtype(dtype))
    return torch.frombuffer(data, dtype=torch_dtype(dtype))
