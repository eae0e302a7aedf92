"""Supervisor: runs an assignment to its end, through failures of its ranks.

Every start of the ranks is a generation. When one fails the evidence is kept, its ranks are
ended, and the next one goes on from the newest good checkpoint with the same batches; after
``train.max_restarts`` restarts that brought the run no further it ends with exit code 75.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holmes.diagnose.diagnose import RESULT, diagnose, write_diagnosis
from holmes.diagnose.records import EVIDENCE
from holmes.diagnose.verdict import Verdict
from holmes.diagnose.watcher import Watcher
from holmes.errors import HolmesError, RankDiedError, TerminatedError, UnavailableError
from holmes.launch.failures import RankFailedError
from holmes.launch.session import OnProgress, Session
from holmes.plan.codec import write_plan
from holmes.runtime.checkpoint.check import latest_good
from holmes.runtime.checkpoint.fence import advance
from holmes.runtime.checkpoint.folders import latest_committed, step_of
from holmes.train.assignment import Assignment
from holmes.train.attendant import Attendant, StopOrder
from holmes.train.elastic import Gone, Spares, unreachable, untraced
from holmes.train.injection import Injection
from holmes.train.recovery import Recovery, Restarts, Timeline, write_recoveries
from holmes.train.show import Progress

FAILURES = "failures"
STATELESS = (
    "virtual devices compute nothing that a restart could go on from; with "
    "rehearsal.devices=real the run goes on from its last checkpoint"
)
PROBE_SECONDS = 0.75
Results = list[dict[str, Any]]


@dataclass(frozen=True)
class Failure:
    """A generation that failed: why, how far it came, and the moments of its end."""

    error: HolmesError
    verdict: Verdict
    reached: int
    timeline: Timeline


class Supervisor:
    """Runs one assignment in a session.

    Args:
        deadline_seconds: bound on each generation.
        spares: plans for when hosts are gone; None: the hosts cannot go.
    """

    def __init__(
        self,
        session: Session,
        progress: Progress,
        name: str,
        deadline_seconds: float,
        spares: Spares | None = None,
    ) -> None:
        self._session = session
        self._progress = progress
        self._name = name
        self._deadline = deadline_seconds
        self._stop = StopOrder()
        self._recoveries: list[Recovery] = []
        self._reached = 0
        self._virtual = False
        self._restarts = Restarts(0)
        self._spares = spares
        self._gone: Gone = frozenset()
        self._probed = 0.0

    def run(self, assignment: Assignment) -> Results:
        """Run until the end; results by seat.

        Raises:
            HolmesError: what stopped the run, with its verdict and the last checkpoint.
            TerminatedError: SIGTERM arrived; the state is committed.
        """
        given = replace(assignment, secret=assignment.secret or secrets.token_hex(16))
        self._virtual = given.virtual
        self._restarts = Restarts(given.job.train.max_restarts if restartable(given) else 0)
        injection = Injection(given, self._session)
        if self._spares is not None and restartable(given):
            self._spares.prepare(given.run_folder)
        try:
            with self._stop:
                return self._generations(given, injection)
        finally:
            injection.finish()

    def _generations(self, given: Assignment, injection: Injection) -> Results:
        run = given.run_folder
        current = self._next(given)
        while True:
            outcome = self._generation(current, injection)
            if not isinstance(outcome, Failure):
                if not outcome[0]["stopped"] or self._stop.terminated:
                    return self._ended(outcome, given)
                outcome = self._grown(run)
            else:
                self._refuse_to_go_on(outcome, run)
            current = self._restart(current, outcome)

    def _generation(self, current: Assignment, injection: Injection) -> Results | Failure:
        """One generation of ranks, from their start to their end."""
        run, train = current.run_folder, current.job.train
        hosts = self._session.lab.hosts if self._session.lab.shaped else ()
        watcher = Watcher(current.plan, run, hosts)
        attendant = Attendant(watcher, self._stop, train.grace_seconds, self._look_for_hosts)
        shown = self._progress.on_steps(self._name, current.steps)
        try:
            return self._session.run(
                "holmes.train.tasks:train",
                {"assignment": current.to_json()},
                deadline_seconds=self._deadline,
                operation_seconds=train.deadline_seconds,
                on_progress=injection.following(self._following(shown, run)),
                guard=attendant,
                seats=sorted(current.plan.rank_map),
            )
        except HolmesError as error:
            return self._failure(with_verdict(error, run), attendant, run)

    def _following(self, shown: OnProgress, run: Path) -> OnProgress:
        """Pass reports on, note how far the run is, and when a recovery is over."""

        def hear(rank: int, report: Mapping[str, Any]) -> None:
            shown(rank, report)
            if "seconds" in report:
                self._reached = int(report["step"])
            if self._recoveries and self._recoveries[-1].timeline.hear(report):
                self._progress.say(self._recoveries[-1].text())
                write_recoveries(run, self._recoveries, None)

        return hear

    def _failure(self, error: HolmesError, attendant: Attendant, run: Path) -> Failure:
        ended = time.monotonic_ns()
        verdict = _verdict(run)
        watcher = attendant.watcher
        noticed = watcher.noticed or ended
        timeline = Timeline(watcher.seen(verdict.rank) or noticed)
        timeline.end("detect", noticed)
        timeline.end("evidence", attendant.concluded or noticed)
        timeline.end("stop", ended)
        return Failure(error, verdict, self._reached, timeline)

    def _refuse_to_go_on(self, failure: Failure, run: Path) -> None:
        error = failure.error
        if self._stop.terminated:
            raise with_checkpoint(TerminatedError("terminated", why=error.what), run) from error
        if not (
            isinstance(error, RankDiedError | RankFailedError)
            or (self._recoveries and isinstance(error, UnavailableError))
        ):
            raise with_checkpoint(error, run) from None
        if self._restarts.allow(failure.reached):
            return
        if self._virtual:
            error.why = f"{error.why}; {STATELESS}" if error.why else STATELESS
        if self._restarts.limit:
            count = self._restarts.limit
            gave_up = f"gave up after {count} restarts in a row that brought the run no further"
            write_recoveries(run, self._recoveries, gave_up)
            error.why = f"{gave_up}; {error.why}" if error.why else gave_up
            if not isinstance(error, RankDiedError):
                error = RankDiedError(
                    error.what, where=error.where, why=error.why, next_step=error.next_step
                )
        raise with_checkpoint(error, run) from None

    def _restart(self, current: Assignment, failure: Failure) -> Assignment:
        """The next generation's assignment; the ranks of the last one are ended already."""
        run = current.run_folder
        self._progress.say(f"{failure.error.what}; {failure.verdict.text()}")
        keep_evidence(run, current.generation or 0)
        current = self._replanned(current, failure)
        following = self._next(current)
        resumed = step_of(Path(following.resume_from)) if following.resume_from else 0
        failure.timeline.end("choose")
        cold = not self._session.pool.warm
        recovery = Recovery(
            following.generation or 0,
            failure.verdict,
            failure.error.what,
            failure.reached,
            resumed,
            len({self._session.topology.devices[d].node.index for d in following.plan.rank_map}),
            cold,
            failure.timeline,
        )
        self._recoveries.append(recovery)
        write_recoveries(run, self._recoveries, None)
        self._reached = resumed
        return following

    def _next(self, current: Assignment) -> Assignment:
        """A new generation; from the second on it resumes from the newest good checkpoint."""
        generation = advance(current.run_folder)
        if current.generation == 0:
            return replace(current, generation=generation)
        folder = latest_good(current.run_folder, self._progress.say)
        where = str(folder) if folder else current.resume_from
        return replace(current, generation=generation, resume_from=where)

    def _replanned(self, current: Assignment, failure: Failure) -> Assignment:
        """On the hosts that are there now, with the plan for them.

        Raises:
            RankDiedError: there is no plan for them.
        """
        if self._spares is None:
            return current
        gone = unreachable(self._session.lab.hosts)
        if gone == self._gone:
            return current
        self._gone = gone
        try:
            plan = self._spares.without(gone)
        except HolmesError as error:
            lost = RankDiedError(
                f"the run cannot go on without {', '.join(sorted(gone))}",
                why=error.text(),
                next_step=failure.error.what,
            )
            raise with_checkpoint(lost, current.run_folder) from None
        write_plan(plan, current.run_folder / "plan.json")
        failure.timeline.end("replan")
        left = f"without {', '.join(sorted(gone))}" if gone else "on all hosts again"
        self._progress.say(f"{left}: {plan.explain[0] if plan.explain else 'planned'}")
        return replace(current, plan=plan, job=untraced(current.job))

    def _look_for_hosts(self) -> None:
        """Once a host is back, let the ranks finish their step and commit, to start on it, too."""
        now = time.monotonic()
        if not self._gone or self._stop.given or now - self._probed < PROBE_SECONDS:
            return
        self._probed = now
        missing = [host for host in self._session.lab.hosts if host.node.name in self._gone]
        if unreachable(missing) != self._gone:
            self._stop.give()

    def _grown(self, run: Path) -> Failure:
        """The ranks stopped in order, because a host is back."""
        self._stop.given = False
        back = ", ".join(sorted(self._gone - unreachable(self._session.lab.hosts)))
        what = f"host {back} is back"
        verdict = Verdict("none", host=back, evidence=(what,))
        timeline = Timeline(time.monotonic_ns())
        return Failure(RankDiedError(what), verdict, self._reached, timeline)

    def _ended(self, results: Results, given: Assignment) -> Results:
        run = given.run_folder
        if results[0]["stopped"]:
            raise with_checkpoint(TerminatedError(f"terminated after step {self._reached}"), run)
        if self._spares is not None and self._recoveries:
            write_plan(given.plan, run / "plan.json")  # what trace and prediction are of
        return results


def restartable(assignment: Assignment) -> bool:
    """Whether the ranks have a state that a later generation can go on from."""
    return assignment.save and not assignment.virtual


def with_verdict(error: HolmesError, run: Path) -> HolmesError:
    """The error of a stopped run with what the diagnosis says, which is written down too."""
    with suppress(HolmesError):  # a diagnosis that fails must not hide the error
        verdict = diagnose(run)
        path = write_diagnosis(run, verdict)
        found = f"{verdict.text()} (confidence {verdict.confidence:.2f}), see {path}"
        error.why = f"{error.why}; diagnosis: {found}" if error.why else f"diagnosis: {found}"
        error.args = (error.text(),)
    return error


def with_checkpoint(error: HolmesError, run: Path) -> HolmesError:
    """The error of a stopped run with what it can be resumed from."""
    last = latest_committed(run)
    found = f"last committed checkpoint: {last}" if last else "no checkpoint was committed yet"
    more = f"{found}; `holmes train --resume` continues from it" if last else found
    error.next_step = f"{error.next_step}; {more}" if error.next_step else more
    error.args = (error.text(),)
    return error


def _verdict(run: Path) -> Verdict:
    with suppress(HolmesError):
        return diagnose(run)
    return Verdict("software", confidence=0.0, evidence=("the run left no records",))


def keep_evidence(run: Path, generation: int) -> None:
    """What a failed generation left is not overwritten by the next one's."""
    folder = run / FAILURES / f"generation-{generation}"
    with suppress(OSError):
        for name in (EVIDENCE, RESULT):
            if (run / name).exists():
                folder.mkdir(parents=True, exist_ok=True)
                (run / name).replace(folder / name)
