"""CPU quotas by control group, version 1 or 2, for processes of one lab.

Groups are named after the process that owns them (its id and start time), so
the ones that a killed lab left behind are recognised and swept.
"""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass
from pathlib import Path

from holmes.errors import ConfigError

PREFIX = "holmes-lab"
PERIOD_US = 10_000
"""Short, so that a throttled rank stalls its peers for milliseconds only."""
LEAST_QUOTA_US = 1_000
"""The kernel refuses less per period."""
_numbers = itertools.count()


@dataclass(frozen=True)
class Hierarchy:
    """Where groups can be made: the parent folder, and whether it is version 1."""

    parent: Path
    first_version: bool

    def set_quota(self, group: Path, cores: float) -> None:
        """Limit a group to ``cores`` processors. Raises OSError."""
        period = max(PERIOD_US, int(LEAST_QUOTA_US / cores) + 1)
        quota = max(LEAST_QUOTA_US, round(period * cores))
        if self.first_version:
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {period}")


class Quotas:
    """The groups that one process has made. ``reason`` says why there can be none."""

    def __init__(self) -> None:
        self.reason = ""
        self._owner = _identity(os.getpid())
        self._groups: dict[str, Path] = {}
        self._hierarchy = _find()
        if self._hierarchy is None:
            self.reason = "no cpu control group can be made here"
        else:
            sweep(self._hierarchy.parent)

    @property
    def parent(self) -> str | None:
        """The folder in which groups are made."""
        return str(self._hierarchy.parent) if self._hierarchy else None

    def limit(self, name: str, cores: float) -> bool:
        """Make a group limited to ``cores`` processors, or change the limit of one.

        Returns whether it took effect; if not, ``reason`` says why.

        Raises:
            ConfigError: ``cores`` is not a positive number.
        """
        if not 0 < cores < math.inf:
            raise ConfigError(
                f"a quota of {cores:g} processors is not possible",
                where=name,
                next_step="give a positive number of processor cores, such as 0.5",
            )
        if self._hierarchy is None:
            return False
        try:
            if name not in self._groups:
                group = self._hierarchy.parent / f"{PREFIX}-{self._owner}-{next(_numbers)}"
                group.mkdir()
                self._groups[name] = group
            self._hierarchy.set_quota(self._groups[name], cores)
        except OSError as error:
            self.reason = f"a cpu quota cannot be set: {error.strerror}"
            self.release(name)
            return False
        self.reason = ""
        return True

    def join(self, name: str, pid: int) -> bool:
        """Put a process, and what it starts later, under the limit of a group."""
        try:
            (self._groups[name] / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            self.reason = f"process {pid} cannot join its cpu quota: {error.strerror}"
            return False
        return True

    def release(self, name: str) -> None:
        """Remove a group; its processes go on without a limit."""
        group = self._groups.pop(name, None)
        if group is not None and self._hierarchy is not None:
            _empty(group, self._hierarchy.parent)

    def close(self) -> None:
        """Remove every group."""
        for name in list(self._groups):
            self.release(name)


def sweep(parent: Path) -> list[str]:
    """Remove the groups of owners that are gone; returns their names."""
    swept = []
    for group in parent.glob(f"{PREFIX}-*"):
        owner = group.name.removeprefix(f"{PREFIX}-").rsplit("-", 1)[0]
        pid = owner.partition("-")[0]
        if pid.isdigit() and _identity(int(pid)) != owner and _empty(group, parent):
            swept.append(group.name)
    return swept


def _empty(group: Path, parent: Path) -> bool:
    """Move what still runs in a group to its parent and remove it; False if that failed."""
    try:
        for pid in (group / "cgroup.procs").read_text().split():
            try:
                (parent / "cgroup.procs").write_text(pid)
            except ProcessLookupError:
                continue
        group.rmdir()
    except OSError:
        return False
    return True


def _identity(pid: int) -> str:
    """``<pid>-<start time>``, or an empty string when there is no such process any more."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    state, started = fields[0], fields[19]
    return "" if state == "Z" else f"{pid}-{started}"


def _find() -> Hierarchy | None:
    """The nearest place, from this process's own group upwards, that takes new groups."""
    for mount, below, first_version in _mounts():
        here = mount / below
        for parent in (here, *here.parents):
            if not parent.is_relative_to(mount):
                break
            if _works(Hierarchy(parent, first_version)):
                return Hierarchy(parent, first_version)
    return None


def _works(hierarchy: Hierarchy) -> bool:
    """Whether a group can be made there and takes a quota: tried, not guessed."""
    name = f"{PREFIX}-{_identity(os.getpid())}-{next(_numbers)}"
    group = hierarchy.parent / name
    try:
        group.mkdir()
    except OSError:
        return False
    try:
        hierarchy.set_quota(group, 1.0)
        return os.access(hierarchy.parent / "cgroup.procs", os.W_OK)
    except OSError:
        return False
    finally:
        group.rmdir()


def _mounts() -> list[tuple[Path, Path, bool]]:
    """(mount point, path of this process below it, version 1?) of hierarchies with ``cpu``."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        own = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    paths = {}
    for line in own:
        _, controllers, path = line.split(":", 2)
        paths[controllers] = path
    found = []
    for line in mounts:
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        root, mount = left.split()[3:5]
        first_version = kind == "cgroup"
        if kind not in {"cgroup", "cgroup2"} or (first_version and "cpu" not in _words(options)):
            continue
        names = [name for name in paths if ("cpu" in _words(name) if first_version else not name)]
        for name in names:
            below = os.path.relpath(paths[name], root)
            found.append(
                (Path(mount), Path("" if below.startswith("..") else below), first_version)
            )
    return found


def _words(text: str) -> set[str]:
    return set(text.split(","))
