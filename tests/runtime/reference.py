"""The slow and obvious: one process, torch's AdamW per tensor, autograd over the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from holmes.models.common.chain import IGNORED
from holmes.models.gpt.sharding import decays
from holmes.models.registry import model_module
from holmes.plan.program import schedule_of
from holmes.runtime.pipeline.program import MicroBatch
from holmes.runtime.sharding.norm import clip_coefficient, global_norm, sum_of_squares
from tests.runtime.plans import Spec, plan_of

LEARNING_RATE = 3e-3


def rate_of(step: int) -> float:
    """Another rate for every step, so that one used a step late shows."""
    return LEARNING_RATE / (1 + step)


BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1


def dtype_of(spec: Spec) -> torch.dtype:
    return torch.float64 if spec.precision == "fp64" else torch.float32


Replica = int | tuple[int, int]
"""The number of a replica, or the samples of a micro-batch that it takes."""


def batch_of(spec: Spec, step: int, replica: Replica, microbatch: int) -> MicroBatch:
    """Text that can be learnt: each token follows from the one before it."""
    if isinstance(replica, tuple):
        whole = batch_of(spec, step, 0, microbatch)
        return replace(
            whole, tokens=whole.tokens[slice(*replica)], targets=whole.targets[slice(*replica)]
        )
    seed = ((step * 64) + replica) * 64 + microbatch
    generator = torch.Generator().manual_seed(seed)
    config = spec.config
    first = torch.randint(config.vocabulary, (spec.micro, 1), generator=generator)
    ramp = torch.arange(config.sequence + 1)
    text = (first + 7 * ramp) % config.vocabulary
    batch = MicroBatch(text[:, :-1].contiguous(), text[:, 1:].contiguous())
    if not spec.apart:
        return batch
    border = config.sequence // 3
    documents = torch.zeros_like(batch.tokens)
    documents[:, border:] = 1
    batch.targets[:, border - 1] = IGNORED
    weight = config.sequence / (config.sequence - 1)
    return replace(batch, documents=documents, weight=weight)


def through(blocks: Sequence[nn.Module], batch: MicroBatch) -> Tensor:
    """Logits of a micro-batch."""
    x = batch.tokens
    for block in blocks:
        x = block(x, batch.documents)
    return x


INTEGER_SCALE = 2.0**20


def prepare(spec: Spec, named: Mapping[str, nn.Parameter]) -> None:
    """Freeze what the spec says, and make the gradients of the rest whole numbers if it says so."""
    for name, parameter in named.items():
        if name in spec.frozen:
            parameter.requires_grad_(False)
        elif spec.integer_gradients:
            parameter.register_hook(lambda gradient: (gradient * INTEGER_SCALE).round())


def train_plainly(spec: Spec) -> tuple[dict[str, Tensor], list[float], list[float]]:
    """Parameters by name, losses and norms of the steps."""
    parameters, _, losses, norms = train_with_moments(spec)
    return parameters, losses, norms


def train_with_moments(
    spec: Spec,
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[float], list[float]]:
    """Parameters and running means of their gradients by name, losses and norms of the steps."""
    torch.set_num_threads(1)
    config = spec.config
    module = model_module(spec.family)
    blocks = module.build_blocks(config, 0, config.blocks, dtype=dtype_of(spec))
    named = dict(module.named_parameters(blocks, 0))
    prepare(spec, named)
    trained = {name: p for name, p in named.items() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained.values() if decays(p.shape)]},
            {"params": [p for p in trained.values() if not decays(p.shape)], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=BETAS,
        weight_decay=WEIGHT_DECAY,
        foreach=False,
    )
    order = schedule_of(plan_of(spec)).accumulation_order
    losses, norms = [], []
    for step in range(spec.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step)
        total = 0.0
        replicas: list[list[Tensor]] = []
        for replica in range(spec.dp):
            optimizer.zero_grad()
            for microbatch in order:
                batch = batch_of(spec, step, replica, microbatch)
                loss = module.loss(through(blocks, batch), batch.targets) * batch.weight
                loss = loss / (spec.dp * spec.microbatches)
                loss.backward()
                total += loss.item()
            replicas.append([p.grad for p in named.values() if p.grad is not None])
        gradients = [sum(parts[1:], start=parts[0]) for parts in zip(*replicas, strict=True)]
        for parameter, gradient in zip(trained.values(), gradients, strict=True):
            parameter.grad = gradient
        norm = global_norm(torch.stack([sum_of_squares(g) for g in gradients]))
        for gradient in gradients:
            gradient.mul_(clip_coefficient(norm, spec.clip))
        optimizer.step()
        losses.append(total)
        norms.append(norm)
    moments = {name: optimizer.state[p]["exp_avg"] for name, p in trained.items()}
    return {name: p.detach() for name, p in named.items()}, moments, losses, norms


def plain_gradients(spec: Spec) -> dict[str, Tensor]:
    """Gradients of the first step by name, as one process computes them."""
    torch.set_num_threads(1)
    module = model_module(spec.family)
    blocks = module.build_blocks(spec.config, 0, spec.config.blocks, dtype=dtype_of(spec))
    named = dict(module.named_parameters(blocks, 0))
    for replica in range(spec.dp):
        for microbatch in range(spec.microbatches):
            batch = batch_of(spec, 0, replica, microbatch)
            loss = module.loss(through(blocks, batch), batch.targets) * batch.weight
            (loss / (spec.dp * spec.microbatches)).backward()
    return {name: p.grad for name, p in named.items() if p.grad is not None}
