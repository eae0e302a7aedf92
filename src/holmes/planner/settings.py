"""The wishes of a request with every default filled in, checked against what can be planned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar, get_args

from holmes.errors import ConfigError
from holmes.plan.capabilities import Capabilities
from holmes.plan.layout import (
    ContextAlgorithm,
    Order,
    PartitionRule,
    Quantize,
    Recompute,
    ScheduleName,
    Sharding,
    TransportRule,
    Wishes,
)
from holmes.plan.plan import Axis
from holmes.schedule.generate import (
    DEFAULT_VIRTUAL_STAGES,
    FORMS,
    SCHEDULES,
    WITH_VIRTUAL_STAGES,
    WITH_WARMUP,
    either,
)

T = TypeVar("T", bound=str)

SHARDINGS: tuple[Sharding, ...] = ("optimizer", "none", "gradients", "parameters")
"""What is tried unasked."""
NESTED: tuple[Sharding, ...] = ("hybrid", "three-level")
"""In groups inside the replicas, where that is asked for."""
SHARDED_WEIGHTS = ("parameters", *NESTED)
MOST_VIRTUAL = 8
"""Virtual stages per device beyond which none is tried unasked."""
UNLIMITED = 1_000_000
ALGORITHMS: tuple[ContextAlgorithm, ...] = ("ring", "ulysses", "rsa")
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
    algorithms: tuple[ContextAlgorithm, ...] = ALGORITHMS
    extra_warmup: int | None = None
    scatter_gather: bool = True
    tensor_chunks: int = 1
    shard_groups: tuple[int, ...] | None = None
    quantize: Quantize = "none"

    def covers(self, other: Settings) -> bool:
        """Whether all choices of other settings are among these, and the one that stands for
        several equal ones is the same."""
        same = (
            "order",
            "transport",
            "partition",
            "overlap",
            "extra_warmup",
            "algorithms",
            "scatter_gather",
            "tensor_chunks",
        )
        choices = ("shardings", "schedules", "recomputes", "sequences")
        return (
            all(getattr(self, name) == getattr(other, name) for name in same)
            and all(set(getattr(other, name)) <= set(getattr(self, name)) for name in choices)
            and {*other.virtual_stages} <= {1, *self.virtual_stages}
            and self.shardings[0] == other.shardings[0]
            and self.schedules[0] == other.schedules[0]
            and self.sequences[-1] == other.sequences[-1]
            and other.axes <= self.axes
        )


def settings_of(wishes: Wishes, capabilities: Capabilities | None) -> Settings:
    """Fill in defaults and stay within the capabilities.

    Raises:
        ConfigError: when a wish is beyond what can be planned, or beyond the runtime.
    """
    _check_axes(wishes)
    _check_extra(wishes)
    _check_sharding(wishes)
    allowed = capabilities or Capabilities(
        axes=frozenset({"tensor", "pipeline", "data", "context", "expert"}),
        schedules=frozenset(SCHEDULES),
        shardings=frozenset(SHARDINGS + NESTED),
        recompute=frozenset(RECOMPUTES),
        virtual_stages=UNLIMITED,
        sequence_parallel=True,
        context_algorithms=frozenset(ALGORITHMS),
    )
    for axis, degree in (
        ("tensor", wishes.tensor),
        ("pipeline", wishes.pipeline),
        ("data", wishes.data),
        ("context", wishes.context),
        ("expert", wishes.expert),
    ):
        if degree is not None and degree > 1 and axis not in allowed.axes:
            raise _beyond(f"parallel.{axis}", degree, (1,))
    schedules = _schedules(wishes, allowed)
    return Settings(
        order=wishes.order or "cluster",
        transport=wishes.transport or "per-group",
        partition=wishes.partition or "exact",
        overlap=True if wishes.overlap is None else wishes.overlap,
        shardings=_shardings(wishes, allowed),
        schedules=schedules,
        recomputes=_choices("recompute", wishes.recompute, RECOMPUTES, allowed.recompute),
        sequences=(True, False) if allowed.sequence_parallel else (False,),
        virtual_stages=_virtual_stages(wishes, allowed),
        axes=allowed.axes,
        algorithms=_choices(
            "context_algorithm",
            wishes.context_algorithm,
            ALGORITHMS,
            allowed.context_algorithms if "context" in allowed.axes else ALGORITHMS,
        ),
        extra_warmup=wishes.extra_warmup,
        scatter_gather=wishes.scatter_gather is not False,
        tensor_chunks=wishes.tensor_chunks or 1,
        shard_groups=wishes.shard_groups,
        quantize=wishes.quantize or "none",
    )


def _shardings(wishes: Wishes, allowed: Capabilities) -> tuple[Sharding, ...]:
    planned = SHARDINGS + NESTED if wishes.sharding in NESTED else SHARDINGS
    return _choices("sharding", wishes.sharding, planned, allowed.shardings)


def _check_sharding(wishes: Wishes) -> None:
    """Refuse group sizes and quantisation that no level in question would use.

    Raises:
        ConfigError: naming the key.
    """
    sizes, level = wishes.shard_groups, wishes.sharding
    wanted = {"hybrid": 1, "three-level": 2}.get(level or "")
    if sizes is not None and len(sizes) != wanted:
        raise ConfigError(
            f"parallel.shard_groups of {len(sizes)} sizes with sharding {level}",
            where="parallel.shard_groups",
            why="hybrid takes one size; three-level two: of the groups that share weights, and "
            "of those that share gradients",
            next_step="leave shard_groups out, or set parallel.sharding",
        )
    if wishes.quantize not in (None, "none") and level not in SHARDED_WEIGHTS:
        raise ConfigError(
            f"parallel.quantize={wishes.quantize} with sharding {level or 'left to the planner'}",
            where="parallel.quantize",
            why="it is for gathers of sharded weights and what goes with them",
            next_step=f"set parallel.sharding to one of {', '.join(SHARDED_WEIGHTS)}",
        )


def _schedules(wishes: Wishes, allowed: Capabilities) -> tuple[ScheduleName, ...]:
    """The schedules to try; a wish for several stages per rank means one that can have them."""
    found = _choices("schedule", wishes.schedule, SCHEDULES, allowed.schedules)
    if (wishes.tensor_chunks or 1) > 1:
        found = tuple(name for name in found if not FORMS[name].splits_backward)
        if not found:
            raise ConfigError(
                f"parallel.tensor_chunks={wishes.tensor_chunks} with schedule {wishes.schedule}",
                where="parallel.tensor_chunks",
                why="this schedule puts the gradients of weights off, under which the last chunks "
                "would travel",
                next_step="leave tensor_chunks out, or choose another schedule",
            )
    if wishes.schedule is not None or wishes.virtual_stages is None:
        most = allowed.virtual_stages
        return tuple(name for name in found if most > 1 or name not in WITH_VIRTUAL_STAGES)
    several = wishes.virtual_stages > 1
    return tuple(name for name in found if (name in WITH_VIRTUAL_STAGES) == several)


def _virtual_stages(wishes: Wishes, allowed: Capabilities) -> tuple[int, ...]:
    """Virtual stages per rank to try with a schedule that has them; (1,) without one."""
    wish = wishes.virtual_stages
    fixed = wishes.schedule is not None and wishes.schedule not in WITH_VIRTUAL_STAGES
    if fixed and wish not in (None, 1):
        raise ConfigError(
            f"schedule {wishes.schedule} has one stage per rank, not {wish}",
            where="parallel.virtual_stages",
            next_step=f"leave virtual_stages out, or use schedule {either(WITH_VIRTUAL_STAGES)}",
        )
    if wish is not None and wish > allowed.virtual_stages:
        raise _beyond("parallel.virtual_stages", wish, (f"at most {allowed.virtual_stages}",))
    if wish is not None:
        return (wish,)
    if wishes.schedule in WITH_VIRTUAL_STAGES:
        return (DEFAULT_VIRTUAL_STAGES,)
    return tuple(range(2, min(MOST_VIRTUAL, allowed.virtual_stages) + 1)) or (1,)


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
