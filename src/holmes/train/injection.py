"""The one runner of injected faults: what the lab does to a run, and the ground truth.

Faults that a rank does to itself travel in its assignment; the others are carried out here,
when rank 0 has reported the step before. ``injected.json`` holds what was injected and when.
It is for whoever scores a diagnosis; the diagnosis never reads it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from holmes.errors import ConfigError, UnavailableError
from holmes.hardware.topology import Topology
from holmes.lab.faults import KINDS, Fault, parse_faults
from holmes.lab.lab import Lab
from holmes.lab.relay import Impairment, Passed
from holmes.launch.session import OnProgress, Session
from holmes.train.assignment import Assignment
from holmes.train.summary import write_json

WITHOUT_EFFECT = {
    "nan": "nothing computes gradients",
    "flip": "nothing computes gradients",
    "corrupt": "there are no parameters",
    "cpu": "ranks sleep",
    "host": "there is no state to go on from",
}
"""Of kinds that virtual devices cannot suffer: why."""


def check_faults(texts: Sequence[str], topology: Topology, steps: int, *, virtual: bool) -> None:
    """Refuse what cannot be injected, before anything starts.

    Raises:
        ConfigError: naming the fault.
    """
    for fault in parse_faults(texts, topology, steps):
        if virtual and fault.kind in WITHOUT_EFFECT:
            other = WITHOUT_EFFECT[fault.kind]
            raise ConfigError(
                f"cannot inject {fault.text!r}: devices are virtual, {other}",
                where="--inject",
                next_step="set rehearsal.devices=real, or inject `slow` instead of `cpu`",
            )


IMPAIRED = ("loss", "latency", "jitter")
"""Kinds that put a relay into the path."""


class Injection:
    """The faults of one run."""

    def __init__(self, assignment: Assignment, session: Session) -> None:
        self._faults = assignment.faults()
        self._plan = assignment.plan
        self._session = session
        self._run = assignment.run_folder
        self._done: dict[str, int] = {}
        self._undo: list[tuple[Fault, float]] = []
        self._limited: list[int] = []
        self._away: list[Fault] = []
        self._impaired: dict[str, Impairment] = {}
        self._passed: dict[str, Passed] = {}

    def following(self, tell: OnProgress) -> OnProgress:
        """Pass reports on to ``tell``, and inject when their time has come."""

        def hear(rank: int, report: Mapping[str, Any]) -> None:
            tell(rank, report)
            if "seconds" in report:
                self._after(int(report["step"]))
            elif "phase" in report and rank == 0:
                self._after(0)

        return hear

    def finish(self) -> None:
        """Put the lab right again and write the ground truth."""
        lab = self._session.lab
        for fault, _ in self._faults:
            if self._impaired.pop(_place(fault), None) is not None:
                self._passed[_place(fault)] = self._impair(fault, Impairment())
        for fault, rate in reversed(self._undo):
            if fault.kind == "cut":
                lab.link_up(self._node(fault), fault.nic or _no_card())
            elif fault.link is not None:
                lab.set_link_rate(fault.link, rate)
            else:
                lab.set_rate(self._node(fault), fault.nic or _no_card(), rate)
        for pid in self._limited:
            lab.unquota(pid)
        for fault in self._away:
            self._plug(fault, lab, up=True)
        for fault, mark in self._faults:
            if mark.exists():
                self._done[fault.text] = int(mark.read_text().split()[0])
                mark.unlink()
        if self._faults:
            rows = [
                {**f.to_dict(), "at_ns": self._done.get(f.text), **self._relayed(f)}
                for f, _ in self._faults
            ]
            write_json(self._run / "injected.json", {"faults": rows})

    def _after(self, steps: int) -> None:
        """``steps`` are complete."""
        for fault, _ in self._faults:
            due = KINDS[fault.kind].by == "lab" and fault.text not in self._done
            if due and steps >= fault.step:
                self._done[fault.text] = time.monotonic_ns()
                self._carry_out(fault, self._session.lab)

        for fault in [f for f in self._away if f.back is not None and steps >= f.back]:
            self._away.remove(fault)
            self._plug(fault, self._session.lab, up=True)

    def _plug(self, fault: Fault, lab: Lab, *, up: bool) -> None:
        """All cards of a host."""
        node = self._node(fault)
        for fabric in lab.hosts[node].interfaces:
            (lab.link_up if up else lab.link_down)(node, fabric)

    def _carry_out(self, fault: Fault, lab: Lab) -> None:
        if fault.kind == "cpu":
            assert fault.rank is not None
            pid = self._session.pool.pids[self._plan.rank_map[fault.rank]]
            self._limited.append(pid)
            if not lab.quota(pid, fault.share):
                raise UnavailableError(
                    f"cannot inject {fault.text!r}", where="--inject", why=lab.quota_reason
                )
        elif fault.kind == "host":
            self._away.append(fault)
            self._plug(fault, lab, up=False)
            seats = self._session.topology.devices
            self._session.pool.kill([s.index for s in seats if s.node.name == fault.host])
        elif fault.kind in IMPAIRED:
            old = self._impaired.get(_place(fault), Impairment())
            self._impaired[_place(fault)] = new = _worse(fault, old)
            self._impair(fault, new)
        elif fault.kind == "cut":
            self._undo.append((fault, 0.0))
            lab.link_down(self._node(fault), fault.nic or _no_card())
        elif fault.link is not None:
            rate = lab.rates.links[fault.link]
            self._undo.append((fault, rate))
            lab.set_link_rate(fault.link, rate * fault.share)
        else:
            nic = fault.nic or _no_card()
            rate = lab.rates.nics[self._node(fault), nic]
            self._undo.append((fault, rate))
            lab.set_rate(self._node(fault), nic, rate * fault.share)

    def _impair(self, fault: Fault, impairment: Impairment) -> Passed:
        lab = self._session.lab
        if fault.link is not None:
            return lab.impair_link(fault.link, impairment)
        return lab.impair(self._node(fault), fault.nic or _no_card(), impairment)

    def _relayed(self, fault: Fault) -> dict[str, Any]:
        """What really happened to the frames of the place, for whoever scores."""
        passed = self._passed.get(_place(fault)) if fault.kind in IMPAIRED else None
        return {} if passed is None else {"relay": passed.to_dict()}

    def _node(self, fault: Fault) -> int:
        return next(n.index for n in self._session.topology.nodes if n.name == fault.host)


def _place(fault: Fault) -> str:
    return f"{fault.host}/{fault.nic}/{fault.link}"


def _worse(fault: Fault, old: Impairment) -> Impairment:
    """A place with one more fault."""
    if fault.kind == "loss":
        return replace(old, loss=fault.percent / 100)
    if fault.kind == "latency":
        return replace(old, delay=fault.ms / 1000)
    return replace(old, jitter=fault.ms / 1000)


def _no_card() -> Any:
    raise AssertionError("the parser lets no such fault through without a card")
