"""From the job's words to torch's."""

from __future__ import annotations

import torch

from holmes.job.sections import Optimizer, Train
from holmes.runtime.sharding.bucket_state import AdamWSettings

LOSS_SCALE, LOSS_SCALE_STEPS = 2**16, 2000
"""As torch.amp.GradScaler."""


def dtype_of(precision: str) -> torch.dtype:
    """Parameters are fp32, or fp64 where the job says so; bf16 and fp16 are autocast."""
    return torch.float64 if precision == "fp64" else torch.float32


def adamw_settings(optimizer: Optimizer, train: Train) -> AdamWSettings:
    """The optimiser's constants; the learning rate is set step by step."""
    fp16 = train.precision == "fp16"
    return AdamWSettings(
        betas=optimizer.betas,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        clip=optimizer.clip,
        loss_scale=float(train.loss_scale or LOSS_SCALE) if fp16 else None,
        loss_scale_steps=train.loss_scale_steps or LOSS_SCALE_STEPS,
    )
