"""What every generator checks of its arguments, and what follows from its actions."""

from __future__ import annotations

from collections.abc import Sequence

from holmes.errors import ConfigError
from holmes.schedule.instruction import ACCUMULATING_OPS, Action, Op


def check_counts(stages: int, microbatches: int) -> None:
    """Refuse empty pipelines.

    Raises:
        ConfigError: when ``stages`` or ``microbatches`` is below 1.
    """
    if stages < 1 or microbatches < 1:
        raise ConfigError(
            f"a schedule needs at least one stage and one micro-batch, "
            f"got {stages} stages and {microbatches} micro-batches",
            where="parallel.pipeline, batch",
            next_step="raise batch.global, or lower batch.micro or parallel.data",
        )


def check_virtual(name: str, stages: int, virtual_stages: int) -> None:
    """Refuse a pipeline that several stages per rank do not make shorter.

    Raises:
        ConfigError: with one pipeline rank, or fewer than two virtual stages.
    """
    if virtual_stages < 2:
        raise ConfigError(
            f"{name} with {virtual_stages} virtual stage per rank",
            where="parallel.virtual_stages",
            why="it divides each rank's blocks into at least two stages",
            next_step="use virtual_stages=2 or more, or another schedule",
        )
    if stages < 2:
        raise ConfigError(
            f"{name} on one pipeline rank",
            where="parallel.pipeline",
            why="several stages on one rank have no bubble to shorten",
            next_step="use parallel.pipeline=2 or more, or schedule 1f1b",
        )


def extras_per_cut(stages: int, extra_warmup: int | Sequence[int]) -> tuple[int, ...]:
    """One number for every cut, from one number or one per cut.

    Raises:
        ConfigError: for negative or wrongly many extras.
    """
    cuts = stages - 1
    extras = (extra_warmup,) * cuts if isinstance(extra_warmup, int) else tuple(extra_warmup)
    if len(extras) != cuts or any(extra < 0 for extra in extras):
        raise ConfigError(
            f"extra_warmup must be non-negative, one number or one per cut ({cuts}), got {extras}",
            where="parallel.extra_warmup",
        )
    return extras


def most_in_flight(actions: Sequence[Sequence[Action]], stages: int) -> tuple[int, ...]:
    """Per virtual stage, the most micro-batches it holds, counted along the actions."""
    held, most = [0] * stages, [0] * stages
    for order in actions:
        for action in order:
            if action.op is Op.FORWARD:
                held[action.stage] += 1
                most[action.stage] = max(most[action.stage], held[action.stage])
            elif action.op in ACCUMULATING_OPS:
                held[action.stage] -= 1
    return tuple(most)
