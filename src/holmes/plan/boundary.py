"""How the stages of a plan divide the activations between them, and what therefore crosses."""

from __future__ import annotations

from functools import lru_cache

from holmes.plan.plan import Plan, Stage
from holmes.schedule.transfers import Division, Parts, Transfer, parts_of, transfers


def split_samples(total: int, replicas: int) -> tuple[int, ...]:
    """A micro-batch over replicas: equal shares, the first ones larger by what is left."""
    share, more = divmod(total, replicas)
    return (share + 1,) * more + (share,) * (replicas - more)


def division_of(plan: Plan, stage: Stage) -> Division:
    """How the ranks of a stage divide its boundaries."""
    layout = stage.layout
    whole = layout.tp > 1 and not plan.scatter_gather
    return Division(plan.samples(stage), layout.tp, layout.cp, whole)


def parts_between(plan: Plan, stage: int) -> tuple[Parts, Parts]:
    """The outputs of a stage's ranks, and the inputs of the next one's.

    Args:
        stage: the virtual stage above the cut.
    """
    upper, lower = plan.stages[stage], plan.stages[stage + 1]
    sample_bytes = plan.workload.blocks[upper.blocks[1] - 1].output_bytes * plan.padding
    found = _transfers(division_of(plan, upper), division_of(plan, lower), sample_bytes)
    return parts_of(found, upper.ranks, lower.ranks)


def boundary_bytes(plan: Plan, border: int, rank: int) -> int:
    """Bytes of one micro-batch that a logical rank holds between block ``border`` - 1 and the
    next; 0 at the ends of the chain."""
    blocks = plan.workload.blocks
    if border in (0, len(blocks)):
        return 0
    first, last = plan.samples_of(rank)
    stage = next(stage for stage in plan.stages if rank in stage.ranks)
    tokens = 1 if not plan.scatter_gather else stage.layout.tp
    sample = blocks[border - 1].output_bytes * plan.padding / stage.layout.cp
    return int(sample * (last - first) / tokens)


def passed_borders(plan: Plan, stage: Stage) -> tuple[int, ...]:
    """The borders over which a stage passes something on: down its last, up its first."""
    return tuple(border for border in stage.blocks if 0 < border < len(plan.workload.blocks))


def passed_bytes(plan: Plan, stage: Stage) -> float:
    """Bytes of one sample that a stage passes on, all tokens, down and up."""
    blocks = plan.workload.blocks
    return sum(blocks[border - 1].output_bytes for border in passed_borders(plan, stage))


@lru_cache(maxsize=256)
def _transfers(upper: Division, lower: Division, sample_bytes: float) -> tuple[Transfer, ...]:
    return transfers(upper, lower, sample_bytes)
