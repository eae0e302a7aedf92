"""The moments of one bucket's interval, and the torch optimiser that updates it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holmes.runtime.sharding.buckets import FlatBucket, Placed

STATES = ("exp_avg", "exp_avg_sq")
PIECE = 1 << 17
"""Elements that one call updates on a CPU: what an update reads and writes stays in its cache."""


@dataclass(frozen=True)
class AdamWSettings:
    """Hyper-parameters; ``clip`` is the largest global norm, None for no clipping.

    ``loss_scale`` is the first scale of the loss in fp16, None where nothing is scaled;
    ``loss_scale_steps`` without an overflow double it.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float | None = 1.0
    loss_scale: float | None = None
    loss_scale_steps: int = 2000


class BucketState:
    """AdamW over the interval [start, stop) of a bucket: flat tensors, at most two of them and one
    kernel each on a GPU, in pieces on a CPU. The update is elementwise, so pieces change no bit.

    Args:
        whole: hold the states of the whole bucket, not of this rank's shard only.
    """

    def __init__(self, bucket: FlatBucket, settings: AdamWSettings, *, whole: bool) -> None:
        self._bucket = bucket
        self.start, self.stop = (0, bucket.length) if whole else bucket.shard
        self.count = 0.0
        self._moments = {
            kind: torch.zeros_like(bucket.parameters_in(self.start, self.stop)) for kind in STATES
        }
        border = min(max(bucket.decayed, self.start), self.stop)
        parts = (
            (self.start, border, settings.weight_decay),
            (border, self.stop, 0.0),
        )
        device = bucket.whole.device
        size = max(1, bucket.length) if device.type == "cuda" else PIECE
        leaves: dict[Tensor, tuple[int, int]] = {}
        groups: list[dict[str, Any]] = []
        for start, stop, decay in parts:
            bounds = [(low, min(low + size, stop)) for low in range(start, stop, size)]
            mine = {self._leaf(low, high): (low, high) for low, high in bounds}
            leaves |= mine
            if mine:
                groups.append({"params": list(mine), "weight_decay": decay})
        self._adamw: torch.optim.AdamW | None = None
        if groups:
            fused = device.type == "cuda"  # its count of steps is on the device as well
            self._adamw = torch.optim.AdamW(
                groups, lr=0.0, betas=settings.betas, eps=settings.eps, foreach=False, fused=fused
            )
            for leaf, (start, stop) in leaves.items():
                count = torch.zeros((), device=device if fused else "cpu")
                self._adamw.state[leaf] = {"step": count, **self.moments(start, stop)}

    def _leaf(self, start: int, stop: int) -> Tensor:
        leaf = self._bucket.parameters_in(start, stop)
        leaf.grad = self._bucket.gradients_in(start, stop)
        return leaf

    @torch.no_grad()
    def update(self, coefficient: float, learning_rate: float) -> None:
        """Scale this interval's gradients and apply one AdamW step to it."""
        self.count += 1
        if self._adamw is None:
            return
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        if coefficient != 1.0:
            self._bucket.gradients_in(self.start, self.stop).mul_(coefficient)
        self._adamw.step()

    @property
    def nbytes(self) -> int:
        """Memory of the moments."""
        return sum(moment.nbytes for moment in self._moments.values())

    def set_count(self, value: float) -> None:
        """Continue after ``value`` updates."""
        self.count = value
        for state in self._adamw.state.values() if self._adamw else ():
            state["step"].fill_(value)

    def moments(self, start: int, stop: int) -> dict[str, Tensor]:
        """Views of both moments of the bucket interval [start, stop)."""
        low, high = start - self.start, stop - self.start
        return {kind: vector[low:high] for kind, vector in self._moments.items()}

    def load(self, kind: str, item: Placed, whole: Tensor) -> None:
        """Take the part of a whole moment tensor that this interval holds."""
        low, high = item.overlap(self.start, self.stop)
        if low < high:
            values = whole.reshape(-1)[low - item.start : high - item.start]
            self.moments(low, high)[kind].copy_(values)
