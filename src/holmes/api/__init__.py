"""The command line's Python twin: one function a command."""

from holmes.api.accuracy import calibrate, validate
from holmes.api.checkpoints import (
    checkpoint_convert,
    checkpoint_list,
    checkpoint_repair,
    checkpoint_verify,
)
from holmes.api.planning import (
    compare,
    compare_today,
    draw_schedule,
    export_megatron,
    launch,
    plan,
    rehearsed,
    schedule,
    simulate,
    sweep,
)
from holmes.api.running import (
    diagnose,
    probe,
    rehearse,
    report,
    show_config,
    train,
    verify,
)

__all__ = [
    "calibrate",
    "checkpoint_convert",
    "checkpoint_list",
    "checkpoint_repair",
    "checkpoint_verify",
    "compare",
    "compare_today",
    "diagnose",
    "draw_schedule",
    "export_megatron",
    "launch",
    "plan",
    "probe",
    "rehearse",
    "rehearsed",
    "report",
    "schedule",
    "show_config",
    "simulate",
    "sweep",
    "train",
    "validate",
    "verify",
]
