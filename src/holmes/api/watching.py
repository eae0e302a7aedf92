"""A run while it goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

FINAL = frozenset({"finished", "failed", "stopped"})


def watch(run: Path) -> dict[str, Any]:
    """A run folder as it stands now: state, step, loss, times, traffic, memory, ranks.

    Raises:
        DataError: it holds no run, or a file in it is malformed.
    """
    from holmes.watch.snapshot import take

    return take(run).to_dict()


def watch_live(run: Path, *, every: float = 1.0, once: bool = False) -> None:
    """Show a run in the terminal until it ends; once where nobody can see it change.

    Raises:
        DataError: as for :func:`watch`.
    """
    from rich.console import Console
    from rich.live import Live

    from holmes.watch.snapshot import take
    from holmes.watch.view import view

    out = Console()
    shot = take(run)
    if once or not out.is_terminal:
        out.print(view(shot))
        return
    with Live(view(shot), console=out, auto_refresh=False) as live:
        while shot.state not in FINAL:
            time.sleep(every)
            shot = take(run)
            live.update(view(shot), refresh=True)


def serve_metrics(run: Path, port: int, address: str | None, console: Console) -> None:
    """Serve a run's figures to Prometheus until interrupted.

    Raises:
        DataError: it holds no run.
        UnavailableError: the port is taken.
    """
    from holmes.watch.prometheus import LOCAL, MetricsServer
    from holmes.watch.snapshot import take

    take(run)
    with MetricsServer(run, port, address or LOCAL) as server:
        place = f"http://{address or LOCAL}:{server.port}/metrics"
        console.print(f"serving {place}; Ctrl-C ends it", markup=False)
        while True:
            time.sleep(3600)
