"""Instructions, the schedules that generate them, and the proof that they are sound."""

from holmes.schedule.form import ScheduleName
from holmes.schedule.generate import SCHEDULES, generate
from holmes.schedule.gpipe import gpipe
from holmes.schedule.instruction import Action, Instruction, Op, PeerSlice, Schedule, StageShape
from holmes.schedule.interleaved import interleaved
from holmes.schedule.looped_bfs import looped_bfs
from holmes.schedule.lower import Program, lower
from holmes.schedule.one_f_one_b import one_f_one_b
from holmes.schedule.validate import validate
from holmes.schedule.zero_bubble import zero_bubble

__all__ = [
    "SCHEDULES",
    "Action",
    "Instruction",
    "Op",
    "PeerSlice",
    "Program",
    "Schedule",
    "ScheduleName",
    "StageShape",
    "generate",
    "gpipe",
    "interleaved",
    "looped_bfs",
    "lower",
    "one_f_one_b",
    "validate",
    "zero_bubble",
]
