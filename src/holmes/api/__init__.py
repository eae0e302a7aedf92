"""The command line's Python twin: one function a command."""

from holmes.api.accuracy import calibrate, validate
from holmes.api.checkpoints import (
    checkpoint_convert,
    checkpoint_list,
    checkpoint_repair,
    checkpoint_verify,
    export,
)
from holmes.api.files import schema, write_text
from holmes.api.health import doctor
from holmes.api.launching import launch, submit
from holmes.api.planning import (
    compare,
    compare_today,
    draw_schedule,
    export_megatron,
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
from holmes.api.watching import serve_metrics, watch, watch_live

__all__ = [
    "calibrate",
    "checkpoint_convert",
    "checkpoint_list",
    "checkpoint_repair",
    "checkpoint_verify",
    "compare",
    "compare_today",
    "diagnose",
    "doctor",
    "draw_schedule",
    "export",
    "export_megatron",
    "launch",
    "plan",
    "probe",
    "rehearse",
    "rehearsed",
    "report",
    "schedule",
    "schema",
    "serve_metrics",
    "show_config",
    "simulate",
    "submit",
    "sweep",
    "train",
    "validate",
    "verify",
    "watch",
    "watch_live",
    "write_text",
]
