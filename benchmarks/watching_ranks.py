"""Ranks that count the processor seconds of each step, with or without being watched."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from holmes.launch.context import RankContext
from holmes.runtime.monitor.board import Board
from holmes.runtime.monitor.flight import FlightRecorder
from holmes.runtime.monitor.observer import Published, Unobserved
from holmes.runtime.monitor.wires import Connections
from holmes.runtime.sharding.optimizer import ShardedAdamW
from holmes.train import tasks
from holmes.train.trainer import Trainer

WATCHING: tuple[tuple[Any, str, Any], ...] = (
    (Published, "begin", Unobserved.begin),
    (Published, "end", Unobserved.end),
    (Board, "step", lambda self, number, phase: None),
    (Board, "set_operation", lambda self, operation: None),
    (FlightRecorder, "write", lambda self, *given, **named: 0),
    (Connections, "since", lambda self: {}),
    (ShardedAdamW, "_remember", lambda self, bucket: None),
)
"""All that a step does to be watched, and what is done instead."""


class Counter:
    """Processor seconds inside the functions of :data:`WATCHING`, by name, as they are called."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted on whichever thread calls it."""

        def counted(*given: Any, **named: Any) -> Any:
            before = time.thread_time()
            try:
                return function(*given, **named)
            finally:
                spent = time.thread_time() - before
                self.seconds[name] = self.seconds.get(name, 0.0) + spent

        return counted


def train(context: RankContext, assignment: Mapping[str, Any], watched: bool) -> dict[str, Any]:
    """Processor seconds of every step on this rank, between the barriers around it, and those
    of them that went into watching."""
    seconds: list[float] = []
    inside: list[dict[str, float]] = []
    counter, timed = Counter(), Trainer.timed

    def measured(self: Trainer, step: int) -> Any:
        counter.seconds = {}
        before = _processor_seconds()
        result = timed(self, step)
        seconds.append(_processor_seconds() - before)
        inside.append(counter.seconds)
        return result

    with ExitStack() as stack:
        stack.enter_context(patch.object(Trainer, "timed", measured))
        for owner, name, nothing in WATCHING:
            full = f"{owner.__name__}.{name}"
            instead = counter.around(full, getattr(owner, name)) if watched else nothing
            stack.enter_context(patch.object(owner, name, instead))
        tasks.train(context, assignment)
    return {"seconds": seconds, "watching": inside}


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
