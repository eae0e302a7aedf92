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

T = TypeVar("T", bound=str)

SCHEDULES: tuple[ScheduleName, ...] = ("1f1b", "gpipe")
SHARDINGS: tuple[Sharding, ...] = ("optimizer", "none")
RECOMPUTES: tuple[Recompute, ...] = get_args(Recompute)


@dataclass(frozen=True)
class Settings:
    """What is decided before the search, and the choices left to it, best guess first."""

    order: Order
    transport: TransportRule
    partition: PartitionRule
    overlap: bool
    sharding: Sharding
    schedules: tuple[ScheduleName, ...]
    recomputes: tuple[Recompute, ...]
    tensor_allowed: bool
    pipeline_allowed: bool
    data_allowed: bool


def settings_of(wishes: Wishes, capabilities: Capabilities | None) -> Settings:
    """Fill in defaults and stay within the capabilities.

    Raises:
        ConfigError: when a wish is beyond what can be planned, or beyond the runtime.
    """
    _check_axes(wishes)
    _check_extra(wishes)
    allowed = capabilities or Capabilities(
        axes=frozenset({"tensor", "pipeline", "data"}),
        schedules=frozenset(SCHEDULES),
        shardings=frozenset(SHARDINGS),
        recompute=frozenset(RECOMPUTES),
    )
    for axis, degree in (
        ("tensor", wishes.tensor),
        ("pipeline", wishes.pipeline),
        ("data", wishes.data),
    ):
        if degree is not None and degree > 1 and axis not in allowed.axes:
            raise _beyond(f"parallel.{axis}", degree, (1,))
    return Settings(
        order=wishes.order or "cluster",
        transport=wishes.transport or "per-group",
        partition=wishes.partition or "exact",
        overlap=True if wishes.overlap is None else wishes.overlap,
        sharding=_choices("sharding", wishes.sharding, SHARDINGS, allowed.shardings)[0],
        schedules=_choices("schedule", wishes.schedule, SCHEDULES, allowed.schedules),
        recomputes=_choices("recompute", wishes.recompute, RECOMPUTES, allowed.recompute),
        tensor_allowed="tensor" in allowed.axes,
        pipeline_allowed="pipeline" in allowed.axes,
        data_allowed="data" in allowed.axes,
    )


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
        if key in ("context", "expert", "virtual_stages") and degree not in (None, 1):
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
