"""Progress people can watch: a line for each phase, a bar with time left for each run."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from holmes.launch.session import OnProgress
from holmes.train.show import Progress


class Bars:
    """One live display on standard error. A context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self.progress = Progress(self._say, self._on_steps)

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars.live.is_started:  # else it would print an empty line
            self._bars.stop()

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)

    def _on_steps(self, name: str, steps: int) -> OnProgress:
        self._bars.start()
        task = self._bars.add_task(name, total=steps, note="starting")

        def update(rank: int, report: Mapping[str, Any]) -> None:
            if rank != 0:
                return
            if "seconds" in report:
                loss = report.get("loss")
                shown = "" if loss is None else f"loss {loss:.3f}  "
                note = f"{shown}{report['seconds'] * 1e3:.0f} ms"
                self._bars.update(task, completed=report["step"], note=note)
            elif "phase" in report:
                self._bars.update(task, note=report["phase"])

        return update
