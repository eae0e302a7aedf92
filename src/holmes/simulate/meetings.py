"""Meetings: the operations that need several ranks, with what they ask of the network."""

from __future__ import annotations

from dataclasses import dataclass

from holmes.cost.network import Network, Traffic
from holmes.errors import DataError
from holmes.events.order import Match, matches
from holmes.hardware.site import Fabric
from holmes.plan.plan import Plan
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


def fabric_of(plan: Plan, group: str | None) -> Fabric | None:
    """The fabric that a group's traffic takes.

    Raises:
        DataError: the plan has no such group.
    """
    found = plan.group_by_name.get(group or "")
    if found is None:
        raise DataError(
            f"the plan has no group {group!r}",
            where="groups",
            why="an instruction names it",
            next_step="plan again with `holmes plan`",
        )
    return found.transport.fabric


def meetings_of(plan: Plan, program: Program, network: Network) -> list[Meeting]:
    """The meetings of a program, in order of first mention."""
    return [
        Meeting(_traffic(plan, network, match), match.needed, match.members)
        for match in matches(program, program_ranks(plan))
    ]


def _traffic(plan: Plan, network: Network, match: Match) -> Traffic:
    fabric = fabric_of(plan, match.first.group)
    if match.ends is None:
        return network.collective(match.first.op, match.ranks, match.first.bytes, fabric)
    source, target, size = match.ends
    return network.transfer(source, target, size, fabric)
