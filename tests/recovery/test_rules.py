"""When to start again, and what the ledger and the timeline say, without ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holmes.diagnose.verdict import Verdict, VerdictClass
from holmes.errors import DataError, HolmesError, RankDiedError, WriteError
from holmes.events.jsonl import append_objects, keep_objects
from holmes.train.ledger import Ledger, balance
from holmes.train.recovery import Restarts, Timeline
from holmes.train.show import Progress
from holmes.train.supervise import Failure, Supervisor


def test_restarts_are_counted_while_nothing_is_gained() -> None:
    restarts = Restarts(2)
    assert [restarts.allow(step) for step in (5, 5, 4)] == [True, True, False]
    again = Restarts(2)
    assert [again.allow(step) for step in (5, 5, 6, 6, 7, 7, 7)] == [True] * 6 + [False]
    assert not Restarts(0).allow(3)


def test_each_part_of_a_recovery_ends_with_the_last_rank() -> None:
    timeline = Timeline(0)
    timeline.end("detect", 10**9)
    timeline.end("stop", 3 * 10**9)
    for phase in ("opening groups", "building the model", "loading the state", "training"):
        for _ in range(2):
            assert not timeline.hear({"phase": phase})
    assert timeline.hear({"step": 4, "seconds": 0.1})
    assert not timeline.hear({"step": 5, "seconds": 0.1})
    assert timeline.seconds["detect"] == 1.0 and timeline.seconds["stop"] == 2.0
    parts = ["detect", "stop", "spawn", "join", "build", "load", "first_step"]
    assert list(timeline.seconds) == parts
    assert all(seconds >= 0 for seconds in timeline.seconds.values())


@pytest.mark.parametrize("cls", ["dead", "frozen", "cut-link", "deadlock", "software", "none"])
def test_a_full_disk_ends_the_run_and_a_rank_that_a_save_did_not_hear_of_does_not(
    tmp_path: Path, cls: VerdictClass
) -> None:
    """Whatever the diagnosis takes it for."""
    nothing = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
    supervisor = Supervisor(None, nothing, "x", 1.0)  # type: ignore[arg-type]
    with pytest.raises(RankDiedError):  # before the run begins, none is allowed
        supervisor._refuse_to_go_on(failed(RankDiedError("no word from rank 1"), cls), tmp_path)
    supervisor._restarts = Restarts(1)
    with pytest.raises(WriteError, match="cannot write") as ended:
        supervisor._refuse_to_go_on(failed(WriteError("cannot write"), cls), tmp_path)
    assert ended.value.exit_code == 74
    supervisor._refuse_to_go_on(failed(RankDiedError("no word from rank 1"), cls), tmp_path)


def failed(error: HolmesError, cls: VerdictClass) -> Failure:
    return Failure(error, Verdict(cls), 3, Timeline(0))


def write(run: Path, generation: int, steps: range, rank: int = 0, size: int = 4) -> None:
    ledger = Ledger(run, rank, generation)
    for step in steps:
        ledger.consume(range(step * size, (step + 1) * size))
        ledger.step(step)


def test_a_ledger_counts_what_the_last_generation_did(tmp_path: Path) -> None:
    assert balance(tmp_path) is None
    write(tmp_path, 1, range(6))
    write(tmp_path, 2, range(4, 8), rank=1)
    found = balance(tmp_path)
    assert found is not None
    assert found.to_dict() == {"steps": 8, "samples": 32, "lost": 0, "repeated": 0, "redone": 2}


def test_a_ledger_sees_what_is_lost_or_repeated(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write(tmp_path / "a", 1, range(3))
    write(tmp_path / "a", 1, range(4, 5))
    found = balance(tmp_path / "a")
    assert found is not None and (found.lost, found.repeated) == (4, 0)
    (tmp_path / "b").mkdir()
    write(tmp_path / "b", 1, range(3))
    write(tmp_path / "b", 1, range(2, 3), rank=1)
    found = balance(tmp_path / "b")
    assert found is not None and (found.lost, found.repeated) == (0, 4)


def test_a_damaged_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "rank-0.jsonl").write_text('{"generation": 1, "step": "x"}\n')
    with pytest.raises(DataError, match=r"rank-0\.jsonl:1"):
        balance(tmp_path)


def test_lines_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    keep_objects(path, lambda item: True)
    assert not path.exists()
    append_objects(path, [{"step": step} for step in range(5)])
    keep_objects(path, lambda item: item["step"] < 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2]
