"""The wishes of a request with every default filled in, checked against what can be planned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar, get_args

from holmes.errors import ConfigError
from holmes.plan.capabilities import Capabilities
from holmes.plan.layout import (
    Order,
    PartitionRule,
    Recompute,
    ScheduleName,
    Sharding,
    TransportRule,
    Wishes,
)
from holmes.plan.plan import Axis

T = TypeVar("T", bound=str)

SCHEDULES: tuple[ScheduleName, ...] = (
    "1f1b",
    "gpipe",
    "interleaved",
    "zero-bubble",
    "looped-bfs",
)
SHARDINGS: tuple[Sharding, ...] = ("optimizer", "none", "gradients", "parameters")
LOOPED: frozenset[ScheduleName] = frozenset({"interleaved", "looped-bfs"})
"""Schedules with several virtual stages a device."""
MOST_VIRTUAL = 8
RECOMPUTES: tuple[Recompute, ...] = get_args(Recompute)


@dataclass(frozen=True)
class Settings:
    """What is decided before the search, and the choices left to it, best guess first."""

    order: Order
    transport: TransportRule
    partition: PartitionRule
    overlap: bool
    shardings: tuple[Sharding, ...]
    schedules: tuple[ScheduleName, ...]
    recomputes: tuple[Recompute, ...]
    sequences: tuple[bool, ...]
    virtual_stages: tuple[int, ...]
    axes: frozenset[Axis]
    extra_warmup: int | None = None


def settings_of(wishes: Wishes, capabilities: Capabilities | None) -> Settings:
    """Fill in defaults and stay within the capabilities.

    Raises:
        ConfigError: when a wish is beyond what can be planned, or beyond the runtime.
    """
    _check_axes(wishes)
    _check_extra(wishes)
    allowed = capabilities or Capabilities(
        axes=frozenset({"tensor", "pipeline", "data", "context"}),
        schedules=frozenset(SCHEDULES),
        shardings=frozenset(SHARDINGS),
        recompute=frozenset(RECOMPUTES),
        virtual_stages=MOST_VIRTUAL,
        sequence_parallel=True,
    )
    for axis, degree in (
        ("tensor", wishes.tensor),
        ("pipeline", wishes.pipeline),
        ("data", wishes.data),
        ("context", wishes.context),
    ):
        if degree is not None and degree > 1 and axis not in allowed.axes:
            raise _beyond(f"parallel.{axis}", degree, (1,))
    schedules = _choices("schedule", wishes.schedule, SCHEDULES, allowed.schedules)
    return Settings(
        order=wishes.order or "cluster",
        transport=wishes.transport or "per-group",
        partition=wishes.partition or "exact",
        overlap=True if wishes.overlap is None else wishes.overlap,
        shardings=_choices("sharding", wishes.sharding, SHARDINGS, allowed.shardings),
        schedules=schedules,
        recomputes=_choices("recompute", wishes.recompute, RECOMPUTES, allowed.recompute),
        sequences=(True, False) if allowed.sequence_parallel else (False,),
        virtual_stages=_virtual(wishes.virtual_stages, schedules, allowed.virtual_stages),
        axes=allowed.axes,
        extra_warmup=wishes.extra_warmup,
    )


def _virtual(wish: int | None, schedules: tuple[ScheduleName, ...], most: int) -> tuple[int, ...]:
    """Virtual stages per device worth a try with a looped schedule."""
    if wish is None:
        return tuple(range(2, most + 1))
    if wish > 1 and (wish > most or not LOOPED & set(schedules)):
        raise _beyond("parallel.virtual_stages", wish, range(1, most + 1) if most > 1 else (1,))
    return (wish,) if wish > 1 else ()


def _choices(
    key: str, wish: T | None, planned: tuple[T, ...], allowed: Iterable[T]
) -> tuple[T, ...]:
    """What may be chosen for a key: the wish alone, or all that can be planned and run."""
    able = tuple(choice for choice in planned if choice in set(allowed))
    if wish is None:
        return able
    if wish not in planned or wish not in able:
        raise _beyond(f"parallel.{key}", wish, able)
    return (wish,)


def _beyond(key: str, value: object, able: Iterable[object]) -> ConfigError:
    choices = ", ".join(str(choice) for choice in able)
    return ConfigError(
        f"{key}: {value} cannot be run by this version",
        where=key,
        why=f"available: {choices}",
        next_step=f"choose one of {choices}, or leave {key} out",
    )


def _check_axes(wishes: Wishes) -> None:
    for key, degree in (
        ("tensor", wishes.tensor),
        ("pipeline", wishes.pipeline),
        ("data", wishes.data),
        ("context", wishes.context),
        ("expert", wishes.expert),
        ("virtual_stages", wishes.virtual_stages),
    ):
        if degree is not None and degree < 1:
            raise ConfigError(
                f"parallel.{key} is {degree}",
                where=f"parallel.{key}",
                why="a degree is at least 1",
            )
        if key == "expert" and degree not in (None, 1):
            raise _beyond(f"parallel.{key}", degree, (1,))


def _check_extra(wishes: Wishes) -> None:
    extra = wishes.extra_warmup
    if extra is None:
        return
    if extra < 0:
        raise ConfigError(
            f"parallel.extra_warmup is {extra}",
            where="parallel.extra_warmup",
            why="it counts extra forwards in flight",
        )
    if extra > 0 and wishes.schedule == "gpipe":
        raise ConfigError(
            "parallel.extra_warmup has no effect with schedule gpipe",
            where="parallel.extra_warmup",
            why="gpipe runs all forwards before any backward",
            next_step="leave extra_warmup out, or use schedule 1f1b",
        )
