"""What `holmes simulate` found: cases side by side, and why they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holmes.cost.calibration import calibration_from_dict
from holmes.cost.model import CostModel
from holmes.cost.network import Rates
from holmes.errors import DataError
from holmes.events.perfetto import write_perfetto
from holmes.hardware.site import Site
from holmes.hardware.topology import Topology
from holmes.job.what_if import changed_site, request_again, without_node
from holmes.plan import Plan
from holmes.planner.request import PlanRequest
from holmes.report.cases import Case, cases_table
from holmes.report.causes import Comparison
from holmes.report.compare import compare_cases
from holmes.report.page import write_page
from holmes.report.waterfall_table import waterfall_table
from holmes.simulate import simulate_step, step_seconds

if TYPE_CHECKING:
    from rich.table import Table

RatesOf = Callable[[Site], Rates | None]
OFF = 0.01
"""Two step times that differ by more than this fraction are not of the same conditions."""


@dataclass(frozen=True)
class Study:
    """The plan as it is first, then the other cases; ``comparison`` is of the same plan on
    the changed site."""

    cases: tuple[Case, ...]
    comparison: Comparison | None = None
    notes: tuple[str, ...] = ()

    @property
    def off(self) -> bool:
        """Whether the plan is simulated under other conditions than it was predicted for."""
        said = self.cases[0].plan.predicted.step_seconds
        return abs(self.cases[0].seconds - said) > OFF * self.cases[0].seconds

    def noting(self, note: str) -> Study:
        """The study with one more note."""
        return replace(self, notes=(*self.notes, note))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; the first case's stand at the top as well."""
        told: dict[str, Any] = {
            **self.cases[0].to_dict(),
            "cases": {case.name: case.to_dict() for case in self.cases},
            "notes": list(self.notes),
        }
        if self.comparison is not None:
            told["comparison"] = self.comparison.to_dict()
        return told

    def tables(self) -> list[Table]:
        """Tables for the terminal."""
        causes = [] if self.comparison is None else [waterfall_table(self.comparison)]
        return [cases_table(self.cases), *causes]

    def write(self, *, trace: Path | None, html: Path | None) -> dict[str, str]:
        """Write what is asked for; paths by kind.

        Raises:
            WriteError: when a file cannot be written.
        """
        written: dict[str, str] = {}
        if trace is not None:
            first = self.cases[0].plan
            devices = Topology(first.site).devices
            nodes = {rank: devices[slot].node.name for rank, slot in enumerate(first.rank_map)}
            write_perfetto(trace, [self.cases[0].simulation.timeline], nodes)
            written["trace"] = str(trace)
        if html is not None:
            write_page(html, [case.as_run() for case in self.cases], self.comparison)
            written["html"] = str(html)
        return written


def study(
    made: Plan,
    what_if: Sequence[str],
    fail: str | None,
    rates_of: RatesOf,
    plan_again: Callable[[PlanRequest], Plan],
) -> Study:
    """Simulate a plan; on a changed site as it is and planned again; planned again without a node.

    Args:
        what_if: ``key.sub=value`` changes of the site.
        fail: a node as :func:`holmes.job.what_if.without_node` takes it.
        rates_of: link rates of a site, None for its own.
        plan_again: the planner.

    Raises:
        ConfigError: a change or a node that the site does not have; nothing fits.
    """
    cases = [case_of("as planned", made, rates_of)]
    comparison = None
    notes = []
    site = changed_site(made.site, what_if)
    if what_if:
        if _devices(site) == _devices(made.site):
            cases.append(case_of("what if", replace(made, site=site), rates_of))
            comparison = compare_cases(cases[0], cases[1])
            if rates_of(site) is not None and rates_of(site) == rates_of(made.site):
                notes.append("The change leaves rehearsal.rates, which decide here, as they are.")
        else:
            notes.append("The change adds or removes devices, so the plan was only made again.")
        again = plan_again(request_again(made, site, rates_of(site)))
        cases.append(case_of("what if, planned again", again, rates_of))
    if fail is not None:
        rest = without_node(site, fail)
        again = plan_again(request_again(made, rest, rates_of(rest)))
        cases.append(case_of(f"without {fail}, planned again", again, rates_of))
    if len(cases) > 1:
        notes.append(
            "Planned again: degrees, schedule and warm-up are free, even if a job set them."
        )
    return Study(tuple(cases), comparison, tuple(notes))


def case_of(name: str, made: Plan, rates_of: RatesOf) -> Case:
    """A plan simulated by both engines.

    Raises:
        DataError: the plan holds no calibration, or is not of this version.
    """
    if not made.calibration:
        raise DataError(
            "the plan holds no calibration",
            where="calibration",
            next_step="plan again with `holmes plan --output`",
        )
    calibration = calibration_from_dict(made.calibration)
    cost = CostModel(Topology(made.site), made.workload, calibration, rates_of(made.site))
    return Case(name, made, simulate_step(made, cost), step_seconds(made, cost))


def nearest_case(made: Plan, rehearsed: RatesOf) -> Case:
    """A plan at the rates that it was made for: the site's, or those of its rehearsal."""
    own = case_of(made.name, made, lambda site: None)
    if made.site.rehearsal is None:
        return own
    told = made.predicted.step_seconds
    other = case_of(made.name, made, rehearsed)
    return min((own, other), key=lambda case: abs(case.seconds - told))


def _devices(site: Site) -> list[tuple[str, int]]:
    return [(slot.node.name, slot.local_index) for slot in Topology(site).devices]
