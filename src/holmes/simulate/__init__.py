"""Two engines that must agree, closed form and events: Plan -> seconds, Plan -> Timeline."""

from holmes.simulate.bound import lower_bound_seconds, resource_seconds
from holmes.simulate.closed_form import step_seconds, times_of
from holmes.simulate.events import Simulation, SimulationError, simulate, simulate_step
from holmes.simulate.recurrence import PartTimes, PipelineTimes, StageTimes, pipeline_seconds
from holmes.simulate.summary import Summary, summarize
from holmes.simulate.wavefront import wavefront_seconds

__all__ = [
    "PartTimes",
    "PipelineTimes",
    "Simulation",
    "SimulationError",
    "StageTimes",
    "Summary",
    "lower_bound_seconds",
    "pipeline_seconds",
    "resource_seconds",
    "simulate",
    "simulate_step",
    "step_seconds",
    "summarize",
    "times_of",
    "wavefront_seconds",
]
