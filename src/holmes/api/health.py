"""Whether machines are fit to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def doctor(
    site: str | None = None,
    *,
    folder: Path = Path("runs"),
    port: int | None = None,
    deadline_seconds: float = 120.0,
    communicators: bool = False,
) -> dict[str, Any] | None:
    """Check this machine or, under torchrun or Slurm, every machine of a site.

    Args:
        site: a site file or catalogue name to compare with; None checks machines alone.
        folder: where runs are to be written.
        port: of the rendezvous; None takes the job's default.
        deadline_seconds: longest wait for another machine.
        communicators: also open a group on RDMA and one on sockets, in both orders.

    Returns:
        ``{findings: [{check, verdict, said, do, node}], counts, exit_code}``; None on ranks
        other than the first.

    Raises:
        ConfigError: the site cannot be read, or this process is none of its nodes.
        UnavailableError: another machine does not answer.
    """
    from holmes.hardware.read import read_site
    from holmes.job.sections import Launch
    from holmes.probe.doctor.examine import Asked, examine
    from holmes.probe.doctor.finding import exit_code

    asked = Asked(
        site=None if site is None else read_site(site),
        folder=folder,
        port=port or Launch().port,
        deadline_seconds=deadline_seconds,
        communicators=communicators,
    )
    found = examine(asked)
    if found is None:
        return None
    counts = {verdict: sum(each.verdict == verdict for each in found) for verdict in VERDICTS}
    return {
        "findings": [each.to_dict() for each in found],
        "counts": counts,
        "exit_code": exit_code(found),
    }


VERDICTS = ("ok", "warn", "fail", "skip")
