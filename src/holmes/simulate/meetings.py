"""Meetings: the operations that need several ranks, with what they ask of the network."""

from __future__ import annotations

from dataclasses import dataclass

from holmes.cost.network import Network, Traffic
from holmes.cost.software import fabric_of, gathered_over_parameters
from holmes.events.order import Match, matches
from holmes.plan.plan import Plan
from holmes.schedule.instruction import Op
from holmes.schedule.lower import Program


@dataclass(frozen=True)
class Meeting:
    """A transfer or a collective: it starts when ``needed`` members (instruction ids) are there."""

    traffic: Traffic
    needed: int
    members: tuple[int, ...]


def program_ranks(plan: Plan) -> tuple[int, ...]:
    """The logical rank of each list of the plan's program."""
    return tuple(sorted({rank for stage in plan.stages for rank in stage.ranks}))


def meetings_of(plan: Plan, program: Program, network: Network) -> list[Meeting]:
    """The meetings of a program, in order of first mention."""
    return [
        Meeting(_traffic(plan, network, match), match.needed, match.members)
        for match in matches(program, program_ranks(plan))
    ]


def _traffic(plan: Plan, network: Network, match: Match) -> Traffic:
    fabric = fabric_of(plan, match.first.group)
    if match.ends is None:
        bytes_: float = match.first.bytes
        if match.first.op is Op.ALL_GATHER:
            bytes_ *= gathered_over_parameters(plan, network.calibration)
        return network.collective(match.first.op, match.ranks, bytes_, fabric)
    source, target, size = match.ends
    return network.transfer(source, target, size, fabric)
