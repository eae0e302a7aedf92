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
from holmes.schedule.generate import (
    DEFAULT_VIRTUAL_STAGES,
    SCHEDULES,
    WITH_VIRTUAL_STAGES,
    WITH_WARMUP,
)

T = TypeVar("T", bound=str)

SEARCHED: tuple[ScheduleName, ...] = ("1f1b", "gpipe")
"""Schedules that are tried when none is asked for."""
SHARDINGS: tuple[Sharding, ...] = ("optimizer", "none")
UNLIMITED = 1_000_000
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
    virtual_stages: int
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
        virtual_stages=UNLIMITED,
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
        schedules=_schedules(wishes, allowed),
        virtual_stages=_virtual_stages(wishes, allowed),
        recomputes=_choices("recompute", wishes.recompute, RECOMPUTES, allowed.recompute),
        tensor_allowed="tensor" in allowed.axes,
        pipeline_allowed="pipeline" in allowed.axes,
        data_allowed="data" in allowed.axes,
    )


def _schedules(wishes: Wishes, allowed: Capabilities) -> tuple[ScheduleName, ...]:
    """The schedules to try; several stages per rank mean one that can have them."""
    found = _choices("schedule", wishes.schedule, SCHEDULES, allowed.schedules)
    if wishes.schedule is not None:
        return found
    if (wishes.virtual_stages or 1) > 1:
        return tuple(name for name in found if name in WITH_VIRTUAL_STAGES)
    return tuple(name for name in found if name in SEARCHED)


def _virtual_stages(wishes: Wishes, allowed: Capabilities) -> int:
    wish = wishes.virtual_stages
    fixed = wishes.schedule is not None and wishes.schedule not in WITH_VIRTUAL_STAGES
    if fixed and wish not in (None, 1):
        raise ConfigError(
            f"schedule {wishes.schedule} has one stage per rank, not {wish}",
            where="parallel.virtual_stages",
            next_step="leave virtual_stages out, or use schedule interleaved or looped-bfs",
        )
    if wish is not None and wish > allowed.virtual_stages:
        raise _beyond("parallel.virtual_stages", wish, (f"at most {allowed.virtual_stages}",))
    return wish or (DEFAULT_VIRTUAL_STAGES if wishes.schedule in WITH_VIRTUAL_STAGES else 1)


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
        if key in ("context", "expert") and degree not in (None, 1):
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
    if extra > 0 and wishes.schedule is not None and wishes.schedule not in WITH_WARMUP:
        raise ConfigError(
            f"parallel.extra_warmup has no effect with schedule {wishes.schedule}",
            where="parallel.extra_warmup",
            why="its forwards in flight are fixed",
            next_step="leave extra_warmup out, or use schedule 1f1b",
        )
