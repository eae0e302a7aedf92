"""Timelines as Chrome trace JSON, which Perfetto and chrome://tracing open.

A process is a rank, a thread is a lane; predicted and measured are two groups
of processes, both starting at 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holmes.errors import WriteError
from holmes.events.span import Timeline

_GROUP_STRIDE = 1_000_000
"""Process ids of the second source start here; ranks stay below it."""


def chrome_trace(timelines: Sequence[Timeline], nodes: Mapping[int, str]) -> dict[str, Any]:
    """The trace as JSON-ready values (times in microseconds).

    Args:
        timelines: measured first or predicted first; that order is kept on screen.
        nodes: name of the node of each rank; ranks that are not in it show no node.
    """
    events: list[dict[str, Any]] = []
    for position, timeline in enumerate(timelines):
        events += _events(timeline, position, nodes)
    return {"displayTimeUnit": "ms", "traceEvents": events}


def write_perfetto(path: Path, timelines: Sequence[Timeline], nodes: Mapping[int, str]) -> None:
    """Write the trace.

    Raises:
        WriteError: when the file cannot be written.
    """
    try:
        path.write_text(json.dumps(chrome_trace(timelines, nodes), separators=(",", ":")))
    except OSError as error:
        raise WriteError(f"cannot write the trace: {error.strerror}", where=str(path)) from None


def _events(timeline: Timeline, position: int, nodes: Mapping[int, str]) -> list[dict[str, Any]]:
    origin = min((span.start for span in timeline.spans), default=0)
    lanes: dict[int, dict[str, int]] = {}
    every = (*timeline.spans, *timeline.inner)
    for span in sorted(every, key=lambda s: (s.rank, s.lane != "compute", s.lane)):
        of_rank = lanes.setdefault(span.rank, {})
        of_rank.setdefault(span.lane, len(of_rank))
    events: list[dict[str, Any]] = []
    for rank, of_rank in lanes.items():
        pid = position * _GROUP_STRIDE + rank
        node = f" on {nodes[rank]}" if rank in nodes else ""
        name = f"{timeline.source}: rank {rank}{node}"
        events.append(_label("process_name", pid, 0, name=name))
        events.append(_label("process_sort_index", pid, 0, sort_index=pid))
        for lane, tid in of_rank.items():
            events.append(_label("thread_name", pid, tid, name=lane))
            events.append(_label("thread_sort_index", pid, tid, sort_index=tid))
    for span in every:
        of_microbatch = "" if span.microbatch is None else f" m{span.microbatch}"
        events.append(
            {
                "name": f"{span.op}{of_microbatch}",
                "cat": timeline.source,
                "ph": "X",
                "pid": position * _GROUP_STRIDE + span.rank,
                "tid": lanes[span.rank][span.lane],
                "ts": (span.start - origin) / 1000,
                "dur": (span.stop - span.start) / 1000,
                "args": {
                    "id": span.id,
                    "step": span.step,
                    "stage": span.stage,
                    "microbatch": span.microbatch,
                    "bytes": span.bytes,
                    "buffer": span.buffer,
                },
            }
        )
    return events


def _label(kind: str, pid: int, tid: int, **args: str | int) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": args}
