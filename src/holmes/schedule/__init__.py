"""Instructions, the schedules that generate them, and the proof that they are sound."""

from holmes.schedule.gpipe import gpipe
from holmes.schedule.instruction import Action, Instruction, Op, PeerSlice, Schedule, StageShape
from holmes.schedule.lower import Program, lower
from holmes.schedule.one_f_one_b import one_f_one_b
from holmes.schedule.validate import validate

__all__ = [
    "Action",
    "Instruction",
    "Op",
    "PeerSlice",
    "Program",
    "Schedule",
    "StageShape",
    "gpipe",
    "lower",
    "one_f_one_b",
    "validate",
]
