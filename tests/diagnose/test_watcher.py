"""The watcher on boards that this process writes, with a kernel that says what the test wants."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from holmes.diagnose import watcher as module
from holmes.diagnose.diagnose import diagnose
from holmes.diagnose.records import order_of_plan
from holmes.diagnose.watcher import Process, Watcher
from holmes.errors import ConfigError, DataError
from holmes.hardware.topology import Topology
from holmes.plan.codec import write_plan
from holmes.runtime.monitor.board import Board, Phase
from holmes.schedule.instruction import Op
from holmes.train.injection import check_faults
from tests.diagnose.cases import LANE, plan


class Kernel(Process):
    """Says the same of every process."""

    letter = "S"

    def state(self, pid: int) -> str:
        return type(self).letter


class Stopped(Kernel):
    letter = "T"


def watched(run: Path, kernel: Process) -> tuple[Watcher, list[Board]]:
    write_plan(plan(), run / "plan.json")
    watcher = Watcher(plan(), run, (), kernel)
    watcher.begin(dict.fromkeys(range(4), os.getpid()))
    boards = [Board(run / "monitor" / f"rank-{r}.board", r, ["compute", LANE]) for r in range(4)]
    for board in boards:
        board.set_operation(1_000_000)
        board.step(3, Phase.INSIDE)
    return watcher, boards


def computation_of(rank: int) -> int:
    """The first forward of a rank."""
    order = order_of_plan(plan())
    found = order.instructions.items()
    return next(i for i, ins in found if order.rank_of[i] == rank and ins.op is Op.FORWARD)


def test_progress_of_one_rank_is_enough(tmp_path: Path) -> None:
    watcher, boards = watched(tmp_path, Kernel())
    now = time.monotonic()
    assert watcher.look(now) is None
    assert watcher.look(now + 4.9) is None
    boards[2].turn("compute", 1)
    assert watcher.look(now + 5.1) is None
    assert watcher.look(now + 9.9) is None
    assert watcher.look(now + 10.2) is not None


def test_slow_instructions_have_their_time(tmp_path: Path) -> None:
    watcher, boards = watched(tmp_path, Kernel())
    for board in boards:
        board.set_operation(3 * 10**9)
        board.step(4, Phase.INSIDE)
    now = time.monotonic()
    assert watcher.look(now) is None
    assert watcher.look(now + 14.9) is None
    assert watcher.look(now + 15.1) is not None


def test_an_evaluation_or_checkpoint_is_no_hang(tmp_path: Path) -> None:
    watcher, boards = watched(tmp_path, Kernel())
    for phase in (Phase.EVALUATING, Phase.SAVING):
        boards[0].step(3, phase)
        now = time.monotonic()
        assert watcher.look(now) is None
        assert watcher.look(now + 100) is None
        assert watcher.excused() == {0}


def test_writing_records_may_take_longer_than_an_instruction(tmp_path: Path) -> None:
    watcher, boards = watched(tmp_path, Kernel())
    boards[0].step(3, Phase.OUTSIDE)
    now = time.monotonic()
    assert watcher.look(now) is None
    assert watcher.look(now + 19.9) is None
    assert watcher.look(now + 20.1) is not None


def test_a_stopped_process_is_found_wherever_it_is(tmp_path: Path) -> None:
    watcher, boards = watched(tmp_path, Stopped())
    for board in boards:
        board.step(3, Phase.OUTSIDE)
    now = time.monotonic()
    assert watcher.look(now) is None
    hang = watcher.look(now + 5.1)
    assert hang is not None and "frozen: rank 0" in hang.what
    watcher.conclude("stall", None, hang.what)
    evidence = json.loads((tmp_path / "evidence.json").read_text())
    assert evidence["kind"] == "stall" and len(evidence["scene"]["boards"]) == 4
    assert diagnose(tmp_path).cls == "frozen"


def test_a_timeout_does_not_hide_a_card_without_carrier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, boards = watched(tmp_path, Kernel())
    for board in boards:
        board.step(3, Phase.BEFORE)
    monkeypatch.setattr(Watcher, "_without_carrier", lambda self: [("a-1", "ethernet")])
    watcher.conclude("error", 3, "rank 3 failed: Timed out")
    verdict = diagnose(tmp_path)
    assert (verdict.cls, verdict.host) == ("cut-link", "a-1")


def test_an_error_of_a_rank_is_software(tmp_path: Path) -> None:
    watcher, _ = watched(tmp_path, Kernel())
    watcher.conclude("error", 3, "rank 3 failed: KeyError: 'x'\n  where: there")
    verdict = diagnose(tmp_path)
    assert (verdict.cls, verdict.rank, verdict.evidence) == (
        "software",
        3,
        ("rank 3 failed: KeyError: 'x'",),
    )


@pytest.mark.parametrize("text", ["", "{}", '{"kind": 1, "verdict": null}', '{"kind": "stall"}'])
def test_damaged_evidence_is_refused(tmp_path: Path, text: str) -> None:
    write_plan(plan(), tmp_path / "plan.json")
    (tmp_path / module.EVIDENCE).write_text(text)
    with pytest.raises(DataError):
        diagnose(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        diagnose(tmp_path)
    assert refused.value.exit_code == 65


@pytest.mark.parametrize("fault", ["nan:rank=1@step=1", "cpu:rank=1@step=1"])
def test_faults_without_effect_on_virtual_devices_are_refused(fault: str) -> None:
    with pytest.raises(ConfigError):
        check_faults([fault], Topology(plan().site), 5, virtual=True)
    check_faults([fault], Topology(plan().site), 5, virtual=False)


def test_a_node_that_waits_for_another_says_nothing(tmp_path: Path) -> None:
    """Two of four ranks are watched: only what their boards prove counts."""
    watcher, boards = watched(tmp_path, Kernel())
    now = time.monotonic()
    watcher.follow(dict.fromkeys((0, 1), os.getpid()), now)
    for board in boards[:2]:
        board.step(3, Phase.BEFORE)
    assert watcher.look(now) is None
    assert watcher.look(now + 100) is None
    assert watcher.verdict is None
    boards[1].step(3, Phase.INSIDE)
    boards[1].turn("compute", computation_of(1))
    assert watcher.look(now + 101) is None
    assert watcher.look(now + 107) is not None
    assert watcher.verdict is not None
    assert (watcher.verdict.cls, watcher.verdict.rank) == ("frozen", 1)


def test_a_death_is_told_with_what_the_rank_did(tmp_path: Path) -> None:
    watcher, boards = watched(tmp_path, Kernel())
    boards[2].turn("compute", computation_of(2))
    verdict = watcher.death(2, "rank 2 died")
    watcher.conclude("death", watcher.seat(2), "rank 2 died")
    assert (verdict.cls, verdict.rank) == ("dead", 2)
    assert "rank 2 is in step 3, forward, instruction " in verdict.evidence[1]
    assert diagnose(tmp_path).evidence == verdict.evidence
