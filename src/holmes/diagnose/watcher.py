"""Watcher: the agent's eyes. Looks at the boards of the ranks, out of band, and judges a hang.

A task hangs when no rank got anywhere for longer than five times the p99 of its own
instructions, and at least five seconds; a rank that the kernel calls stopped for that long
is frozen wherever it is. The scene is written down before anything is ended.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holmes.diagnose.records import EVIDENCE, FOLDER, Places, order_of_plan
from holmes.diagnose.sockets import connections
from holmes.diagnose.stopped import Scene, doing, why_stopped
from holmes.diagnose.verdict import Verdict
from holmes.errors import DataError
from holmes.lab.carrier import carriers
from holmes.lab.lab import Host
from holmes.plan.plan import Plan
from holmes.runtime.monitor.board import LONG, Phase, Reading, read_board

LEAST_SECONDS = 5.0
FACTOR = 5.0
CERTAIN = 0.95
"""From here on the scene outranks what a rank complained of: a timeout is not the cause."""
LOCAL = frozenset({"frozen", "deadlock"})
"""Verdicts that the boards of some of the ranks can prove."""
FIRST_STEP_SECONDS = 20.0
"""Before the first step is complete there is no baseline, and first calls are slow; nor is
there one for writing records."""


@dataclass(frozen=True)
class Process:
    """Ask the kernel about a process; replaced in tests."""

    def state(self, pid: int) -> str:
        """One letter, empty where there is no such process."""
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return ""


@dataclass(frozen=True)
class Hang:
    """What the caller is told; fits the launcher's idea of a stall."""

    what: str
    where: str
    why: str
    next_step: str


class Watcher:
    """Guards one task of a plan.

    Args:
        run: the run folder, whose ``monitor/`` has the boards.
        hosts: of the lab, for their addresses and carriers.
    """

    interval = 0.25

    def __init__(
        self, plan: Plan, run: Path, hosts: Sequence[Host], kernel: Process | None = None
    ) -> None:
        self._run = run
        self._plan = plan
        self._places = Places(plan)
        self._order = order_of_plan(plan)
        self._hosts = tuple(hosts)
        self._kernel = kernel or Process()
        self._pids: dict[int, int] = {}
        self._seen: dict[int, tuple[int, ...]] = {}
        self._moved = 0.0
        self._stopped_since: dict[int, float] = {}
        self._scene: Scene | None = None
        self._verdict: Verdict | None = None
        self._noticed = 0

    def begin(self, pids: Mapping[int, int]) -> None:
        """Watch these processes, by device of the site."""
        ranks = {device: rank for rank, device in enumerate(self._plan.rank_map)}
        self.follow({ranks[seat]: pid for seat, pid in pids.items()}, time.monotonic())
        for name in (EVIDENCE, "diagnosis.json"):
            (self._run / name).unlink(missing_ok=True)
        for path in (self._run / FOLDER).glob("*.board"):
            path.unlink()

    def follow(self, pids: Mapping[int, int], now: float) -> None:
        """Watch these processes from now on, by logical rank, and leave all files as they are."""
        self._pids = dict(pids)
        self._moved = now

    def look(self, now: float) -> Hang | None:
        """Read the boards; what is wrong when nothing has moved for too long.

        Where only some of the ranks are watched, all of them may wait for one that is not: then
        nothing is said.
        """
        boards = self._boards()
        progress = {rank: board.progress for rank, board in boards.items()}
        if progress != self._seen:
            self._seen, self._moved = progress, now
        limit = self.limit(boards)
        frozen = self._long_stopped(now, boards)
        phases = [board.phase for board in boards.values()]
        inside = len(phases) == len(self._pids) and not LONG & set(phases)
        if not frozen and not (inside and now - self._moved > limit):
            return None
        self._scene = self.scene(boards, network=False)
        self._verdict = why_stopped(self._scene, self._order, self._places)
        if self._verdict.cls != "frozen":  # only then does it take the network to tell
            self._scene = self.scene(boards)
            self._verdict = why_stopped(self._scene, self._order, self._places)
        if len(self._pids) < self._plan.world_size and self._verdict.cls not in LOCAL:
            self._scene = self._verdict = None
            return None
        self._noticed = time.monotonic_ns()
        return Hang(
            f"the run hangs: {self._verdict.text()}",
            where=self._verdict.evidence[0],
            why=f"no rank got anywhere for {limit:.1f} s",
            next_step=self._verdict.advice,
        )

    def excused(self) -> set[int]:
        """Devices whose rank evaluates or saves, and is not stopped."""
        return {
            self._plan.rank_map[rank]
            for rank, board in self._boards().items()
            if board.phase in LONG and self._kernel.state(board.pid) not in {"T", "t"}
        }

    def seen(self, rank: int | None) -> int | None:
        """When a rank (None: any) last got anywhere, in monotonic ns, as it stood when the scene
        was taken down."""
        boards = {} if self._scene is None else self._scene.boards
        found = [b.seen for r, b in boards.items() if rank in (None, r)]
        return max(found, default=None)

    @property
    def noticed(self) -> int:
        """When the failure was noticed, monotonic ns; 0 while there is none."""
        return self._noticed

    def limit(self, boards: Mapping[int, Reading]) -> float:
        """Seconds without progress that count as a hang."""
        slowest = [board.operation for board in boards.values()]
        writing = any(board.phase is Phase.OUTSIDE for board in boards.values())
        if not slowest or not all(slowest) or writing:
            return FIRST_STEP_SECONDS
        return max(LEAST_SECONDS, FACTOR * max(slowest) / 1e9)

    def death(self, rank: int, text: str) -> Verdict:
        """The verdict on a rank whose process is gone, with what it was doing."""
        self.freeze()
        assert self._scene is not None
        seen = (text, doing(self._scene, rank, self._order))
        self._verdict = Verdict("dead", rank, self._places.host(rank), evidence=seen)
        return self._verdict

    @property
    def verdict(self) -> Verdict | None:
        """What was found, once something was."""
        return self._verdict

    def seat(self, rank: int) -> int:
        """The device of the site that a logical rank runs on."""
        return self._plan.rank_map[rank]

    def freeze(self) -> None:
        """Take down the scene, once."""
        if self._scene is None:
            self._noticed = time.monotonic_ns()
            self._scene = self.scene(self._boards())

    def conclude(self, kind: str, rank: int | None, text: str) -> None:
        """Write ``evidence.json``: kind and place of the failure, and the scene."""
        self.freeze()
        assert self._scene is not None
        logical = None if rank is None else self._plan.rank_map.index(rank)
        if self._verdict is None and kind != "death":
            found = why_stopped(self._scene, self._order, self._places)
            if kind == "silence" or found.confidence > CERTAIN:
                self._verdict = found
        written = {
            "kind": kind,
            "noticed_ns": self._noticed,
            "rank": logical,
            "text": text,
            "verdict": None if self._verdict is None else asdict(self._verdict),
            "scene": scene_to_dict(self._scene),
        }
        with suppress(OSError):  # the failure itself matters more than its record
            (self._run / EVIDENCE).write_text(json.dumps(written, indent=1))

    def scene(self, boards: Mapping[int, Reading], *, network: bool = True) -> Scene:
        """How everything stands now; asking the hosts about their cards takes a moment."""
        addresses = {
            address: (host.node.name, fabric.value)
            for host in self._hosts
            for fabric, address in host.addresses.items()
        }
        pid_on = {self._places.host(rank): pid for rank, pid in self._pids.items()}
        return Scene(
            boards=boards,
            states={rank: _word(self._kernel.state(pid)) for rank, pid in self._pids.items()},
            addresses=addresses if len(addresses) > 1 else {},
            connections={host: tuple(connections(pid)) for host, pid in pid_on.items()},
            no_carrier=tuple(self._without_carrier()) if network else (),
        )

    def _boards(self) -> dict[int, Reading]:
        found = {}
        for rank, pid in self._pids.items():
            with suppress(DataError):
                board = read_board(self._run / FOLDER / f"rank-{rank}.board")
                if board.pid == pid:
                    found[rank] = board
        return found

    def _long_stopped(self, now: float, boards: Mapping[int, Reading]) -> bool:
        """A stopped process needs no baseline: nothing in it takes any time."""
        slowest = max((board.operation for board in boards.values()), default=0)
        limit = max(LEAST_SECONDS, FACTOR * slowest / 1e9)
        stopped = [r for r, pid in self._pids.items() if self._kernel.state(pid) in {"T", "t"}]
        self._stopped_since = {rank: self._stopped_since.get(rank, now) for rank in stopped}
        return any(now - since > limit for since in self._stopped_since.values())

    def _without_carrier(self) -> list[tuple[str, str]]:
        asked = [host for host in self._hosts if host.netns_path is not None]
        paths = [[p for p in (host.userns_path, host.netns_path) if p] for host in asked]
        return [
            (host.node.name, fabric.value)
            for host, up in zip(asked, carriers(paths), strict=True)
            for fabric, name in host.interfaces.items()
            if up.get(name) is False
        ]


def scene_to_dict(scene: Scene) -> dict[str, Any]:
    """JSON values, for people and other tools."""
    return {
        "boards": {rank: asdict(board) for rank, board in scene.boards.items()},
        "states": dict(scene.states),
        "connections": {
            host: [one.to_dict() for one in listed if one.unsent or one.retransmits]
            for host, listed in scene.connections.items()
        },
        "no_carrier": [list(card) for card in scene.no_carrier],
    }


def _word(letter: str) -> str:
    words = {"T": "stopped", "t": "stopped by a debugger", "": "gone", "Z": "dead"}
    return words.get(letter, "alive")
