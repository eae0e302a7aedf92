"""What a run has saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from holmes.errors import DataError


def checkpoint_list(run: Path, *, mtbf_hours: float | None = None) -> dict[str, Any]:
    """The checkpoints of a run, each verified, and how often saving would pay.

    Raises:
        DataError: there are none.
    """
    import time

    from holmes.runtime.checkpoint.listing import listing, locate, pointed

    run, _ = locate(run)
    now = time.time()
    found = listing(run)
    rows = [
        {
            "step": one.manifest.step if one.manifest else None,
            "name": one.folder.name,
            "path": str(one.folder),
            "bytes": one.bytes_,
            "layout": one.layout,
            "state": one.state,
            "reason": one.damage.reason if one.damage else None,
            "age_seconds": max(0.0, now - one.modified),
        }
        for one in found
    ]
    costs = [one.manifest for one in found if one.manifest and one.state == "good"]
    suggestion = _suggestion(run, costs[-1], mtbf_hours) if costs else None
    return {"run": str(run), "latest": pointed(run), "checkpoints": rows, "suggestion": suggestion}


def _suggestion(run: Path, manifest: Any, mtbf_hours: float | None) -> dict[str, Any]:
    """The interval for the cost of the newest save and the run's median step."""
    from statistics import median

    from holmes.events.metrics import read_metrics
    from holmes.runtime.checkpoint.interval import DEVICE_MTBF_HOURS, suggest

    measured = manifest.meta["save"]
    source = "as given" if mtbf_hours else f"published rate of GPUs x {manifest.world} devices"
    mtbf = 3600 * (mtbf_hours or DEVICE_MTBF_HOURS / manifest.world)
    best = suggest(measured["copy_seconds"], measured["write_seconds"], mtbf)
    metrics = run / "metrics.jsonl"
    steps = [step.step_seconds for step in read_metrics(metrics)] if metrics.exists() else []
    return {
        "seconds": best.seconds,
        "steps": max(1, round(best.seconds / median(steps))) if steps else None,
        "lost": best.lost,
        "bound": best.bound,
        "stall_seconds": measured["copy_seconds"],
        "write_seconds": measured["write_seconds"],
        "mtbf_seconds": mtbf,
        "mtbf_source": source,
    }


def checkpoint_verify(path: Path) -> dict[str, Any]:
    """Check every byte of one checkpoint, or of all of a run.

    Returns:
        ``{ok, bad: [{file, tensor, reason}], checked, uncommitted, bytes}``; files are
        relative to ``path``.

    Raises:
        DataError: there is no checkpoint.
    """
    from holmes.runtime.checkpoint.check import damages, run_damages
    from holmes.runtime.checkpoint.folders import leftovers, step_folders
    from holmes.runtime.checkpoint.listing import locate

    run, one = locate(path)
    folders = [one] if one else step_folders(run)
    if not folders:
        raise DataError("there are no checkpoints", where=str(path))
    found = list(damages(one) if one else run_damages(run))
    bad = [
        {
            "file": str(damage.file.relative_to(path.absolute())),
            "tensor": damage.tensor,
            "reason": damage.reason,
        }
        for damage in found
    ]
    size = sum(file.stat().st_size for folder in folders for file in folder.iterdir())
    return {
        "ok": not bad,
        "bad": bad,
        "checked": [folder.name for folder in folders],
        "uncommitted": [] if one else [path.name for path in leftovers(run)],
        "bytes": size,
    }


def checkpoint_convert(path: Path, output: Path, *, optimizer: bool = False) -> dict[str, Any]:
    """Whole parameters of a checkpoint, or of the newest good one of a run, as one file.

    Raises:
        DataError: there is no checkpoint, or it is damaged.
        WriteError: the file cannot be written.
    """
    from holmes.runtime.checkpoint.convert import convert

    _, folder = _newest_good(path)
    done = convert(folder, output, optimizer=optimizer)
    return {
        "file": str(done.file),
        "step": done.step,
        "tensors": done.tensors,
        "bytes": done.bytes_,
    }


def export(path: Path, output: Path, *, format: Literal["hf"] = "hf") -> dict[str, Any]:
    """The model of a checkpoint, or of the newest good one of a run, as `transformers` loads it.

    Returns:
        ``{folder, step, tensors, bytes}``.

    Raises:
        ConfigError: the model has no architecture there.
        DataError: there is no checkpoint, or it is damaged.
        WriteError: the folder exists or cannot be written; nothing is left of it.
    """
    from holmes.train.export import export as write

    run, folder = _newest_good(path)
    done = write(run, folder, output)
    return {
        "folder": str(done.folder),
        "step": done.step,
        "tensors": done.tensors,
        "bytes": done.bytes_,
    }


def _newest_good(path: Path) -> tuple[Path, Path]:
    """(run, checkpoint) of a run folder, or of one checkpoint's."""
    import sys

    from holmes.runtime.checkpoint.check import latest_good
    from holmes.runtime.checkpoint.listing import locate

    run, one = locate(path)
    folder = one or latest_good(run, lambda line: print(line, file=sys.stderr))
    if folder is None:
        raise DataError("there are no checkpoints", where=str(path))
    return run, folder


def checkpoint_repair(run: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Point ``latest`` at the newest good checkpoint and drop what was never committed.

    Raises:
        DataError: there are no checkpoints.
        WriteError: the folder cannot be changed.
    """
    from dataclasses import asdict

    from holmes.runtime.checkpoint.check import newest_good
    from holmes.runtime.checkpoint.listing import locate
    from holmes.runtime.checkpoint.repair import repair

    run, _ = locate(run)
    actions = [
        {**asdict(action), "path": str(action.path)} for action in repair(run, dry_run=dry_run)
    ]
    good = newest_good(run, lambda line: None)
    return {"actions": actions, "latest": good.name if good else None, "dry_run": dry_run}
