"""What a run leaves behind: metrics, trace, evaluations, TensorBoard, and a log line a step."""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist

from holmes.events.jsonl import append_objects, keep_objects
from holmes.events.memory import STATM, append_memory
from holmes.events.metrics import StepMetrics, append_metrics
from holmes.events.span import Span
from holmes.events.trace import append_trace
from holmes.runtime.groups import Groups
from holmes.train.assignment import Assignment
from holmes.train.board import ScalarBoard
from holmes.watch.prometheus import MetricsServer

WARM_UP_STEPS = 3
"""Steps that neither the trace nor the medians take, where the run is longer."""


def traced_steps(first: int, stop: int, count: int) -> range:
    """The steps whose spans are written: ``count`` of them, after the warm-up if there is room."""
    start = max(first, min(first + WARM_UP_STEPS, stop - count))
    return range(start, min(stop, start + count))


class RunRecorder:
    """Writes the run folder. Every rank has one; logical rank 0 writes the shared files."""

    def __init__(self, assignment: Assignment, groups: Groups) -> None:
        self._groups = groups
        self._folder = assignment.run_folder
        self._traced = traced_steps(0, assignment.steps, assignment.job.train.trace_steps)
        self._writes = groups.rank == 0
        self._board: ScalarBoard | None = None
        if self._writes and assignment.job.train.tensorboard:
            self._board = ScalarBoard(self._folder, assignment.plan)
        port = assignment.job.train.prometheus_port
        serves = self._writes and port is not None
        self._server = MetricsServer(self._folder, port) if serves and port else None

    def step(self, metrics: StepMetrics, spans: Sequence[Span], *, applied: bool) -> None:
        """Record one step; every rank calls it, since the trace has the spans of all."""
        if metrics.step in self._traced:
            gathered = gather_json(self._groups, [asdict(span) for span in spans])
            if self._writes:
                everything = (Span(**item) for part in gathered for item in part)
                append_trace(self._folder / "trace.jsonl", everything)
        append_memory(self._folder, self._groups.rank, metrics.step, self._memory())
        if self._writes:
            append_metrics(self._folder / "metrics.jsonl", [metrics])
            if self._board is not None:
                self._board.step(metrics)
        loss = "" if metrics.loss is None else f" loss {metrics.loss:.4f}"
        skipped = "" if applied else " SKIPPED: the gradient norm is not finite"
        self.log(f"step {metrics.step}:{loss} {metrics.step_seconds:.4f} s{skipped}")

    def _memory(self) -> int:
        """Bytes this rank holds: allocated at most on its GPU, else resident in the process."""
        if self._groups.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._groups.device))
        pages = int(STATM.read_text().split()[1])
        return pages * resource.getpagesize()

    def evaluation(self, step: int, loss: float) -> None:
        """Record the loss on held-out text after ``step`` steps."""
        if self._writes:
            append_objects(self._folder / "evaluations.jsonl", [{"step": step, "loss": loss}])
            if self._board is not None:
                self._board.evaluation(step, loss)
        self.log(f"step {step}: held-out loss {loss:.4f}")

    def rewind(self, step: int) -> None:
        """Forget what was written of this step and later ones, which are done again."""
        if not self._writes:
            return
        for name in ("metrics.jsonl", "trace.jsonl"):
            keep_objects(self._folder / name, lambda item: int(item["step"]) < step)
        keep_objects(self._folder / "evaluations.jsonl", lambda item: int(item["step"]) <= step)

    def log(self, line: str) -> None:
        """One line to this rank's log."""
        print(f"[rank {self._groups.rank}] {line}", flush=True)

    def close(self) -> None:
        """Flush what is open."""
        if self._server is not None:
            self._server.close()
        if self._board is not None:
            self._board.close()


def gather_json(groups: Groups, value: Any) -> list[Any]:
    """Every rank's JSON value, in rank order, on every rank; as bytes, never pickled."""
    if groups.world_size == 1:
        return [value]
    data = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=groups.device)
    (longest,) = groups.maximum(float(data.numel()))
    row = torch.zeros(int(longest) + 8, dtype=torch.uint8, device=groups.device)
    size = torch.tensor([data.numel()], dtype=torch.int64).view(torch.uint8)
    row[:8] = size.to(groups.device)
    row[8 : 8 + data.numel()] = data
    rows = [torch.empty_like(row) for _ in range(groups.world_size)]
    dist.all_gather(rows, row, group=groups["world"].process_group)
    values = []
    for each in rows:
        raw = each.cpu()
        count = int(raw[:8].view(torch.int64).item())
        values.append(json.loads(bytes(raw[8 : 8 + count].tolist())))
    return values
