"""Learning rate: linear warm-up, then cosine decay or a constant."""

from __future__ import annotations

import math

from holmes.job.sections import Optimizer


def learning_rate(step: int, steps: int, settings: Optimizer) -> float:
    """The rate of step ``step`` (from 0) of ``steps``.

    Rises linearly to ``lr`` over ``warmup_steps``, then falls on half a cosine
    to ``min_lr`` at the last step, or stays when ``decay`` is constant.
    """
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.decay == "constant":
        return settings.lr
    left = max(1, steps - settings.warmup_steps)
    progress = min(1.0, (step - settings.warmup_steps) / left)
    return settings.min_lr + (settings.lr - settings.min_lr) * 0.5 * (
        1 + math.cos(math.pi * progress)
    )
