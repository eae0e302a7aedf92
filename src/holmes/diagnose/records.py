"""What a run left for the diagnosis, read from its folder; never what was injected into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from holmes.diagnose.verdict import Verdict
from holmes.errors import DataError
from holmes.events.order import Order, order_of
from holmes.hardware.topology import Topology
from holmes.plan.codec import read_plan
from holmes.plan.plan import Plan
from holmes.plan.program import program_of
from holmes.runtime.monitor.flight import FlightStep, read_flight

FOLDER = "monitor"
EVIDENCE = "evidence.json"


@dataclass(frozen=True)
class Places:
    """Where the ranks and groups of a plan are."""

    plan: Plan

    @cached_property
    def topology(self) -> Topology:
        return Topology(self.plan.site)

    def host(self, rank: int) -> str:
        """The node of a logical rank."""
        return self.topology.devices[self.plan.rank_map[rank]].node.name

    def cluster(self, rank: int) -> str:
        """The cluster of a logical rank."""
        return self.topology.devices[self.plan.rank_map[rank]].node.cluster

    def fabric(self, lane: str) -> str | None:
        """The NIC kind that carries a lane; None inside one node."""
        name = lane.removeprefix("comm:")
        group = self.plan.group_by_name.get(name) or self.plan.group_by_name.get(
            name.rpartition(".")[0]
        )
        fabric = None if group is None else group.transport.fabric
        return None if fabric is None else fabric.value

    def nic(self, rank: int, interface: str) -> str | None:
        """The NIC kind that an interface of the host of a rank belongs to."""
        node = self.topology.devices[self.plan.rank_map[rank]].node
        kinds = (nic.kind for nic in node.group.nics)
        return next((k.value for k in kinds if interface in node.interfaces(k)), None)


@dataclass(frozen=True)
class Records:
    """Flight records by rank and step, and the evidence of a failure, if there was one."""

    places: Places
    order: Order
    steps: Mapping[int, Mapping[int, FlightStep]]
    evidence: Mapping[str, Any] | None

    @property
    def complete(self) -> list[int]:
        """The steps that every rank has recorded."""
        every = [set(found) for found in self.steps.values()]
        return sorted(set.intersection(*every)) if every else []


def order_of_plan(plan: Plan) -> Order:
    """Who comes after and meets whom, by logical rank."""
    return order_of(program_of(plan), range(plan.world_size))


def read_records(run: Path) -> Records:
    """Read a run folder.

    Raises:
        DataError: it is no run folder, it has no records, or a file in it is damaged.
    """
    if not (run / "plan.json").exists():
        raise DataError(
            "there is no run", where=str(run), next_step="give a run folder such as runs/demo"
        )
    plan = read_plan(run / "plan.json")
    steps = {
        rank: {step.step: step for step in read_flight(run / FOLDER, rank)}
        for rank in range(plan.world_size)
    }
    evidence = read_evidence(run)
    if evidence is None and not any(steps.values()):
        raise DataError(
            "the run has no flight records",
            where=str(run / FOLDER),
            why="it is of an older version, or did not finish a step",
        )
    return Records(Places(plan), order_of_plan(plan), steps, evidence)


def read_evidence(run: Path) -> dict[str, Any] | None:
    """The evidence of a failure; None where there was none.

    Raises:
        DataError: the file is damaged.
    """
    path = run / EVIDENCE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        if not isinstance(found["kind"], str) or not isinstance(found["verdict"] or {}, dict):
            raise TypeError("kind and verdict")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("the evidence cannot be read", where=str(path), why=str(error)) from None
    return dict(found)


def verdict_from(data: Mapping[str, Any]) -> Verdict:
    """A verdict that was written as fields.

    Raises:
        DataError: fields are missing or unknown.
    """
    try:
        return Verdict(**{**data, "evidence": tuple(data["evidence"])})
    except (TypeError, KeyError) as error:
        raise DataError("the evidence holds no verdict", where=EVIDENCE, why=str(error)) from None
