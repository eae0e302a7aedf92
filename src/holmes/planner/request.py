"""What the planner is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from holmes.cost.calibration import Calibration
from holmes.cost.execution import Execution
from holmes.cost.model import CostModel
from holmes.cost.network import Rates
from holmes.hardware.site import Site
from holmes.hardware.topology import Topology
from holmes.plan.capabilities import Capabilities
from holmes.plan.layout import Wishes
from holmes.workload.workload import Workload


@dataclass(frozen=True)
class PlanRequest:
    """A site, a model and wishes.

    Attributes:
        global_batch: samples per step over all replicas.
        micro_batch: samples per micro-batch and replica; None lets the planner choose.
        capabilities: what the runtime can do; None means unrestricted.
        rates: link rates that override the site's, as :class:`holmes.cost.model.CostModel`
            takes them (a rehearsal's shaped rates).
        search_seconds: wall seconds after which the search stops looking for better.
        note: whether the explanation says what binds and what to change.
        largest_lists: instructions up to which the lists are written out for their digest.
        placement_name: the named bundle the wishes came from, for the reader.
    """

    name: str
    site: Site
    workload: Workload
    global_batch: int
    micro_batch: int | None
    wishes: Wishes
    calibration: Calibration
    capabilities: Capabilities | None = None
    rates: Rates | None = None
    placement_name: str = "planned"
    search_seconds: float | None = None
    note: bool = False
    largest_lists: int = 400_000

    @property
    def cost(self) -> CostModel:
        """What prices its plans, with tensor collectives in the chunks that are wished for."""
        return CostModel(
            Topology(self.site),
            self.workload,
            self.calibration,
            self.rates,
            execution=Execution(chunks=self.wishes.tensor_chunks or 1),
        )

    def unrestricted(self) -> PlanRequest:
        """The same request without the runtime's limits."""
        return replace(self, capabilities=None)
