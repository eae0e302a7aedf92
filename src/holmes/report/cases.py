"""Simulated steps side by side: a plan as it is, on a changed site, and planned again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from holmes.plan import Plan
from holmes.report import units
from holmes.report.run_data import RunData
from holmes.simulate import Simulation, summarize


@dataclass(frozen=True)
class Case:
    """One plan on one site, simulated. ``formula`` is the closed form's seconds."""

    name: str
    plan: Plan
    simulation: Simulation
    formula: float

    @property
    def seconds(self) -> float:
        return self.simulation.timeline.makespan * 1e-9

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values. ``network_bytes`` left and reached the cards, by kind and way."""
        plan, told = self.plan, summarize(self.simulation.timeline)
        return {
            "step_seconds": self.seconds,
            "closed_form_seconds": self.formula,
            "samples_per_second": plan.batch.global_ / self.seconds,
            "bubble_fraction": told.mean_bubble_fraction,
            "layout": plan.degrees,
            "devices": plan.world_size,
            "blocks": [list(stage.blocks) for stage in plan.stages],
            "schedule": plan.schedule.name,
            "microbatches": plan.schedule.microbatches,
            "micro_batch": plan.batch.micro,
            "memory_bytes": max(plan.predicted.memory_bytes.values(), default=0),
            "network_bytes": network_bytes(self.simulation),
            "events": self.simulation.events,
        }

    def as_run(self) -> RunData:
        """The case as a run that has not been measured, for the page."""
        idle = summarize(self.simulation.timeline).mean_bubble_fraction
        said = replace(self.plan.predicted, step_seconds=self.seconds, bubble_fraction=idle)
        return RunData(
            name=self.name,
            plan=replace(self.plan, predicted=said),
            metrics=(),
            measured=type(self.simulation.timeline)("measured"),
            predicted=self.simulation.timeline,
            summary={"predicted_step_seconds": self.seconds},
            job="",
            missing=(),
        )


def network_bytes(simulation: Simulation) -> dict[str, dict[str, int]]:
    """Bytes that left and reached the cards of each kind, summed over the nodes."""
    total: dict[str, dict[str, float]] = {}
    for name, moved in simulation.carried.items():
        _, _, rest = name.partition("/")
        kind, _, way = rest.partition("/")
        if way in ("tx", "rx") and not kind.startswith("device"):
            of_kind = total.setdefault(kind, {"sent": 0.0, "received": 0.0})
            of_kind["sent" if way == "tx" else "received"] += moved
    return {
        kind: {way: round(moved) for way, moved in ways.items()}
        for kind, ways in sorted(total.items())
    }


def cases_table(cases: Sequence[Case]) -> Table:
    """A column a case."""
    table = Table(
        title=Text("Simulated step", style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("")
    for case in cases:
        table.add_column(Text(case.name), overflow="fold")
    told = [case.to_dict() for case in cases]
    base = cases[0].seconds
    kinds = sorted({kind for one in told for kind in one["network_bytes"]})
    rows = [
        ("step", [_step(case.seconds, base) for case in cases]),
        ("closed form", [units.seconds(case.formula) for case in cases]),
        ("samples per second", [f"{one['samples_per_second']:.4g}" for one in told]),
        ("pipeline idle", [f"{100 * one['bubble_fraction']:.0f} %" for one in told]),
        ("devices", [str(one["devices"]) for one in told]),
        ("layout", [_layout(case.plan) for case in cases]),
        ("blocks per stage", [_blocks(case.plan) for case in cases]),
        ("micro-batches", [f"{o['microbatches']} of {o['micro_batch']}" for o in told]),
        ("fullest device", [units.bytes_(one["memory_bytes"]) for one in told]),
        *(
            (f"{kind}, sent", [_sent(one["network_bytes"].get(kind)) for one in told])
            for kind in kinds
        ),
    ]
    for label, cells in rows:
        table.add_row(label, *(Text(cell) for cell in cells))
    return table


def _step(seconds: float, base: float) -> str:
    off = f" ({units.percent(seconds / base - 1)})" if seconds != base else ""
    return f"{units.seconds(seconds)}{off}"


def _layout(plan: Plan) -> str:
    degrees = plan.degrees
    tensor = "" if degrees["tp"] == 1 else f", tensor {degrees['tp']}"
    tensor += f", context {plan.context}" if plan.context > 1 else ""
    tensor += f", expert {plan.expert}" if plan.expert > 1 else ""
    return f"pipeline {degrees['pp']}, data {degrees['dp']}{tensor}"


def _blocks(plan: Plan) -> str:
    counts = [str(stage.blocks[1] - stage.blocks[0]) for stage in plan.stages]
    return ", ".join(counts[:12]) + (" …" if len(counts) > 12 else "")


def _sent(ways: dict[str, int] | None) -> str:
    return units.bytes_(ways["sent"]) if ways else "none"
