"""Interleaved 1F1B (Narayanan et al. 2021, Megatron-LM, section 2.2)."""

from __future__ import annotations

from holmes.errors import ConfigError
from holmes.schedule.counts import check_counts, check_virtual, most_in_flight
from holmes.schedule.form import Form
from holmes.schedule.instruction import Action, Op, Schedule


def interleaved(stages: int, microbatches: int, virtual_stages: int) -> Schedule:
    """One forward, one backward, over v stages per rank; the bubble shrinks by v.

    Rank r holds stages r, p + r, 2 p + r, ... Micro-batches go in groups of p through
    a rank's first stage, then through its second, and so on; backwards from the last
    stage up. The unit is one micro-batch on one stage. Rank r runs 2 (p-1-r) + (v-1) p
    units forward before its first backward.

    Args:
        stages: pipeline ranks p, at least 2.
        microbatches: per step and replica m, a multiple of p.
        virtual_stages: stages per rank v, at least 2.

    Raises:
        ConfigError: for counts below these, or m that is no multiple of p.
    """
    check_counts(stages, microbatches)
    check_virtual("interleaved", stages, virtual_stages)
    if microbatches % stages:
        below = microbatches // stages * stages
        near = f"{below} or {below + stages}" if below else f"{stages}"
        raise ConfigError(
            f"interleaved: {microbatches} micro-batches are not a multiple of "
            f"{stages} pipeline ranks",
            where="parallel.schedule, batch",
            why="micro-batches go through a rank's stages in groups of the pipeline's size; "
            "a smaller last group would stall the ranks below",
            next_step=f"use {near} micro-batches (batch.global), or schedule 1f1b",
        )
    units = microbatches * virtual_stages
    actions = []
    for rank in range(stages):
        warmup = min(units, 2 * (stages - 1 - rank) + (virtual_stages - 1) * stages)
        order = [_unit(Op.FORWARD, k, rank, stages, virtual_stages) for k in range(warmup)]
        for k in range(warmup, units):
            order.append(_unit(Op.FORWARD, k, rank, stages, virtual_stages))
            order.append(_unit(Op.BACKWARD, k - warmup, rank, stages, virtual_stages))
        order += [
            _unit(Op.BACKWARD, k, rank, stages, virtual_stages)
            for k in range(units - warmup, units)
        ]
        actions.append(tuple(order))
    return Schedule(
        "interleaved",
        stages,
        microbatches,
        tuple(actions),
        most_in_flight(actions, stages * virtual_stages),
        virtual_stages=virtual_stages,
    )


def _unit(op: Op, k: int, rank: int, stages: int, virtual_stages: int) -> Action:
    """The k-th forward, or the k-th backward, of a rank."""
    group, rest = divmod(k, stages * virtual_stages)
    chunk, member = divmod(rest, stages)
    if op is Op.BACKWARD:
        chunk = virtual_stages - 1 - chunk
    assert op is Op.FORWARD or op is Op.BACKWARD
    return Action(op, chunk * stages + rank, group * stages + member)


FORM = Form(
    name="interleaved",
    make=lambda p, m, v, extra: interleaved(p, m, v),
    # (v - 1) p + 2 (p - s - 1) + 1 chunks of 1/v (Narayanan et al. 2021, figure 4).
    in_flight=lambda s, p, v: ((v - 1) * p + 2 * (p - s - 1) + 1) / v,
    fills_after=lambda p, v: 4 * p,
    loops=True,
    fixed="its ring of ranks holds all the forwards it can",
    whole_rounds=True,
)
