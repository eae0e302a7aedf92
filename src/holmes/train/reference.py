"""The plain run: one process, one model, torch's own AdamW. What every plan must equal.

It shares with the parallel run only what defines the job: the model, the data
order, the learning rate, and the definition of the global norm (one fp64 sum of
squares per tensor, added in model order).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holmes.data.batches import Batch, BatchPlan
from holmes.job.job import Job
from holmes.models.common.hf.store import FolderWeights
from holmes.models.registry import describe, family_of, model_module, sharding_module
from holmes.runtime.sharding.loss_scale import LossScale
from holmes.runtime.sharding.norm import clip_coefficient, global_norm, sum_of_squares
from holmes.train.learning_rate import learning_rate
from holmes.train.parts import folder_weights
from holmes.train.settings import adamw_settings, dtype_of


@dataclass(frozen=True)
class ReferenceResult:
    """Parameters and running means of their gradients by global name after the last step, and
    the loss of each step."""

    parameters: dict[str, Tensor]
    means: dict[str, Tensor]
    losses: tuple[float, ...]


def train_reference(
    job: Job,
    batches: BatchPlan,
    *,
    steps: int,
    shares: Sequence[tuple[int, int]],
    microbatch_order: Sequence[int],
    on_step: Callable[[int], None] = lambda step: None,
) -> ReferenceResult:
    """Train ``steps`` steps of a job in this process.

    Args:
        shares: the samples [first, last) of a micro-batch that each data-parallel replica
            takes; replicas are visited one after the other.
        microbatch_order: the order in which backward passes add to the gradients.
        on_step: told the number of steps done.
    """
    family = family_of(job.model)
    module = model_module(family)
    config = describe(family).config_from(job.model)
    sharding = sharding_module(family)
    blocks = module.build_blocks(
        config, 0, config.blocks, seed=job.train.seed, dtype=dtype_of(job.train.precision)
    )
    named = dict(module.named_parameters(blocks, 0))
    _begin(named, folder_weights(job, config))
    optimizer = _adamw(job, named, sharding)
    chosen = adamw_settings(job.optimizer, job.train)
    scaling = LossScale(
        chosen.loss_scale or 1.0, chosen.loss_scale_steps, dynamic=chosen.loss_scale is not None
    )
    losses: list[float] = []
    size = job.batch.global_ // len(microbatch_order)

    def loss_of(step: int, microbatch: int, share: tuple[int, int]) -> Tensor:
        start = microbatch * size
        batch = batches.samples(step, start + share[0], start + share[1])
        with module.autocast(job.train.precision):
            loss: Tensor = module.loss(_output(blocks, batch), torch.from_numpy(batch.targets))
        loss = loss / (job.batch.global_ / (share[1] - share[0]))
        return loss if batch.documents is None else loss * batch.weight

    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        sums: dict[str, Tensor] = {}
        for share in shares:
            for microbatch in microbatch_order:
                loss = loss_of(step, microbatch, share)
                torch.autograd.backward(loss if scaling.value == 1.0 else loss * scaling.value)
                total += loss.item()
            _add_replica(sums, named)
        for name, parameter in named.items():
            parameter.grad = sums.get(name)
        norm = _clip(list(named.values()), job.optimizer.clip, scaling.value)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, job.train.steps, job.optimizer)
        if math.isfinite(norm):
            optimizer.step()
        scaling.after(finite=math.isfinite(norm))
        losses.append(total)
        on_step(step + 1)
    means = {k: optimizer.state[v]["exp_avg"] for k, v in named.items() if v in optimizer.state}
    return ReferenceResult({k: v.detach() for k, v in named.items()}, means, tuple(losses))


def _output(blocks: Sequence[torch.nn.Module], batch: Batch) -> Tensor:
    """Logits of a micro-batch."""
    documents = None if batch.documents is None else torch.from_numpy(batch.documents)
    x = torch.from_numpy(batch.tokens)
    for block in blocks:
        x = block(x, documents)
    return x


@torch.no_grad()
def _begin(named: dict[str, torch.nn.Parameter], weights: FolderWeights | None) -> None:
    """Begin with the parameters of a folder, where the job has one."""
    for name, parameter in named.items() if weights else ():
        assert weights is not None
        parameter.copy_(weights.read(name, tuple(parameter.shape)))


def _add_replica(sums: dict[str, Tensor], named: dict[str, torch.nn.Parameter]) -> None:
    """Move the gradients of one replica into the sums: replicas add up one after the other.

    Data parallelism defines the gradient as this sum of sums. Running on in one buffer
    would round differently, and Adam turns the rounding of a near-zero gradient into a
    visible step.
    """
    for name, parameter in named.items():
        if parameter.grad is not None:
            sums[name] = sums[name] + parameter.grad if name in sums else parameter.grad
            parameter.grad = None


def _adamw(job: Job, named: dict[str, torch.nn.Parameter], sharding: Any) -> torch.optim.AdamW:
    settings = job.optimizer
    decayed = [p for p in named.values() if sharding.decays(p.shape)]
    plain = [p for p in named.values() if not sharding.decays(p.shape)]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        foreach=False,
        fused=False,
    )


def _clip(parameters: list[torch.nn.Parameter], limit: float | None, scale: float) -> float:
    """Divide gradients by the scale of the loss and clip them; their norm before clipping."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = global_norm(torch.stack([sum_of_squares(g) for g in gradients])) / scale
    coefficient = clip_coefficient(norm, limit) / scale
    if coefficient != 1.0:
        for gradient in gradients:
            gradient.mul_(coefficient)
    return norm
