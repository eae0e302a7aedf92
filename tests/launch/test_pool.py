"""The shared pool does the harmless cases; a pool of its own is killed and frozen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from holmes.errors import ConfigError, RankDiedError, UnavailableError
from holmes.launch.failures import RankFailedError, RankKilledError, RankSilentError
from holmes.launch.pool import Pool

CASES = "tests.launch.cases:"


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    folder = tmp_path_factory.mktemp("fragile")
    with Pool(3, environment={"HOLMES_TEST_VARIABLE": "v"}, log_dir=folder) as pool:
        yield pool


def ended(pids: tuple[int, ...]) -> bool:
    """Whether all these processes are gone, within a generous limit."""
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        if not any(psutil.pid_exists(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parallel
def test_ranks_stay_warm_and_each_task_has_its_own_port(ranks: Pool) -> None:
    first = ranks.run(CASES + "who", {"word": "one"}, deadline_seconds=60)
    second = ranks.run(CASES + "who", [{"word": str(i)} for i in range(4)], deadline_seconds=60)
    assert [answer["rank"] for answer in first] == [0, 1, 2, 3]
    assert [answer["word"] for answer in second] == ["0", "1", "2", "3"]
    assert [answer["pid"] for answer in first] == [answer["pid"] for answer in second]
    assert tuple(answer["pid"] for answer in first) == ranks.pids
    assert len({answer["parent"] for answer in first}) == 1
    assert len({answer["port"] for answer in first}) == 1
    assert [answer["hosts_store"] for answer in first] == [True, False, False, False]


@pytest.mark.parallel
def test_fewer_ranks_than_seats(ranks: Pool) -> None:
    answers = ranks.run(CASES + "who", {}, deadline_seconds=60, ranks=2)
    assert [(answer["rank"], answer["world"]) for answer in answers] == [(0, 2), (1, 2)]
    with pytest.raises(ConfigError):
        ranks.run(CASES + "who", {}, deadline_seconds=60, ranks=5)
    with pytest.raises(ConfigError):
        ranks.run(CASES + "who", [{}], deadline_seconds=60, ranks=2)


@pytest.mark.parallel
def test_torch_works_in_forked_ranks(ranks: Pool) -> None:
    answers = ranks.run(CASES + "torch_state", {}, deadline_seconds=60)
    assert answers == [{"threads": 1, "sum": 3.0}] * 4


@pytest.mark.parallel
def test_groups_can_be_opened_again_and_again(ranks: Pool) -> None:
    for _ in range(2):
        answers = ranks.run(CASES + "meet", {}, deadline_seconds=60)
        assert answers == [{"total": [20.0] * 4}] * 4


@pytest.mark.parallel
def test_progress_arrives_in_order(ranks: Pool) -> None:
    heard: list[tuple[int, int]] = []
    ranks.run(
        CASES + "count",
        {"reports": 200},
        deadline_seconds=60,
        on_progress=lambda rank, value: heard.append((rank, value["i"])),
        ranks=2,
    )
    for rank in (0, 1):
        assert [i for r, i in heard if r == rank] == list(range(200))


@pytest.mark.parallel
def test_large_arguments_and_results(ranks: Pool) -> None:
    payload = "ab" * 1_000_000
    answers = ranks.run(CASES + "large", {"payload": payload}, deadline_seconds=60, ranks=1)
    assert answers[0]["payload"] == payload[::-1]


@pytest.mark.parallel
def test_logs_are_kept_per_rank_and_can_move(fragile: Pool, tmp_path: Path) -> None:
    before = fragile.log_dir
    fragile.run(CASES + "who", {"word": "here"}, deadline_seconds=60)
    fragile.move_logs(tmp_path / "run" / "logs")
    fragile.run(CASES + "who", {"word": "there"}, deadline_seconds=60)
    fragile.move_logs(before)
    assert "rank 1 says here" in (before / "rank-1.log").read_text()
    assert (tmp_path / "run" / "logs" / "rank-1.log").read_text() == "rank 1 says there\n"


@pytest.mark.parallel
def test_environment_reaches_the_rank(fragile: Pool) -> None:
    answers = fragile.run(CASES + "who", {}, deadline_seconds=60)
    assert {answer["variable"] for answer in answers} == {"v"}


@pytest.mark.parallel
@pytest.mark.parametrize(("how", "number"), [("kill", 9), ("exit", None)])
def test_a_dead_rank_is_named_and_the_pool_goes_on(
    fragile: Pool, how: str, number: int | None
) -> None:
    fragile.start()
    pids = fragile.pids
    with pytest.raises(RankKilledError) as caught:
        fragile.run(CASES + "wait_for_peers", {"killer": 2, "how": how}, deadline_seconds=60)
    error = caught.value
    assert (error.rank, error.pid, error.signal) == (2, pids[2], number)
    assert error.last == {"step": 5}
    assert error.exit_code == 75
    assert "rank 2 died" in error.what and '{"step": 5}' in error.text()
    assert ("SIGKILL" if how == "kill" else "status 3") in error.what
    assert ended(pids)
    answers = fragile.run(CASES + "meet", {}, deadline_seconds=60)
    assert len(answers) == 3
    assert not set(pids) & set(fragile.pids)


@pytest.mark.parallel
def test_a_frozen_rank_is_named_at_the_deadline(fragile: Pool) -> None:
    fragile.start()
    pids = fragile.pids
    with pytest.raises(RankSilentError) as caught:
        fragile.run(CASES + "wait_for_peers", {"killer": 1, "how": "stop"}, deadline_seconds=4)
    error = caught.value
    assert error.stopped == (1,)
    assert error.ranks == (0, 1, 2)
    assert "rank 1 is stopped" in error.what
    assert '{"step": 5}' in error.text()
    assert ended(pids)
    assert "wait_for_peers" in (fragile.log_dir / "rank-0.log").read_text()  # its stack


@pytest.mark.parallel
def test_silence_is_noticed_before_the_deadline(fragile: Pool) -> None:
    with pytest.raises(RankSilentError) as caught:
        fragile.run(
            CASES + "report_then_hang", {}, deadline_seconds=1000, silence_seconds=1.0, ranks=2
        )
    assert caught.value.ranks == (1,)
    assert 'last report {"step": 1}' in caught.value.text()


@pytest.mark.parallel
def test_a_rank_frozen_before_the_task_is_named(fragile: Pool) -> None:
    fragile.start()
    os.kill(fragile.pids[1], signal.SIGSTOP)
    with pytest.raises(RankSilentError, match="rank 1 is stopped"):
        fragile.run(CASES + "who", {}, deadline_seconds=1)
    assert len(fragile.run(CASES + "who", {}, deadline_seconds=60)) == 3


@pytest.mark.parallel
def test_a_rank_killed_between_tasks_is_replaced(fragile: Pool) -> None:
    fragile.start()
    pids = fragile.pids
    os.kill(pids[1], signal.SIGKILL)
    assert ended(pids[1:2])
    answers = fragile.run(CASES + "who", {}, deadline_seconds=60)
    assert [answers[0]["pid"], answers[2]["pid"]] == [pids[0], pids[2]]
    assert answers[1]["pid"] != pids[1]


@pytest.mark.parallel
def test_an_exception_names_rank_and_reason_while_others_hang(fragile: Pool) -> None:
    with pytest.raises(RankFailedError) as caught:
        fragile.run(CASES + "wait_for_peers", {"killer": 0, "how": "raise"}, deadline_seconds=60)
    assert caught.value.rank == 0
    assert caught.value.reason == "ValueError: the third value is odd"
    assert "Traceback" in (fragile.log_dir / "rank-0.log").read_text()
    assert len(fragile.run(CASES + "meet", {}, deadline_seconds=60)) == 3


@pytest.mark.parallel
def test_an_expected_error_keeps_its_class_and_texts(fragile: Pool) -> None:
    with pytest.raises(ConfigError) as caught:
        fragile.run(CASES + "raise_holmes", {"rank": 1}, deadline_seconds=60)
    error = caught.value
    assert (error.what, error.where) == ("bad key", "rank 1: job.yaml:3")
    assert (error.why, error.next_step, error.exit_code) == ("it is so", "mend it", 78)


@pytest.mark.parallel
def test_the_cause_is_told_not_the_lost_connection(fragile: Pool) -> None:
    with pytest.raises(RankFailedError, match="the true cause"):
        fragile.run(CASES + "lose_peer_then_fail", {}, deadline_seconds=60, ranks=2)


@pytest.mark.parallel
@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (CASES + "not_json", "TypeError"),
        (CASES + "leave_python", "SystemExit: done for today"),
        (CASES + "who_is_that", "has no function"),
        ("tests.launch.nothing:here", "ModuleNotFoundError"),
        ("no colon", "package.module:function"),
    ],
)
def test_calls_that_cannot_work_are_errors(fragile: Pool, call: str, reason: str) -> None:
    with pytest.raises((RankFailedError, ConfigError), match=reason):
        fragile.run(call, {}, deadline_seconds=60)


@pytest.mark.parallel
def test_an_interrupt_in_the_caller_ends_the_task(fragile: Pool) -> None:
    fragile.start()
    pids = fragile.pids

    def interrupt(rank: int, value: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fragile.run(
            CASES + "report_then_hang", {}, deadline_seconds=60, on_progress=interrupt, ranks=2
        )
    assert ended(pids[:2])
    assert len(fragile.run(CASES + "who", {}, deadline_seconds=60)) == 3


@pytest.mark.parallel
def test_a_dead_zygote_takes_its_ranks_along_and_is_replaced(fragile: Pool) -> None:
    fragile.start()
    pids = fragile.pids
    zygote = psutil.Process(pids[0]).ppid()
    os.kill(zygote, signal.SIGKILL)
    assert ended(pids)
    assert len(fragile.run(CASES + "who", {}, deadline_seconds=60)) == 3


@pytest.mark.parallel
def test_a_zygote_that_dies_during_a_task_is_the_cause(fragile: Pool) -> None:
    def kill_zygote(rank: int, value: object) -> None:
        os.kill(psutil.Process(fragile.pids[0]).ppid(), signal.SIGKILL)

    with pytest.raises(RankDiedError, match="the process that starts ranks ended"):
        fragile.run(
            CASES + "report_then_hang", {}, deadline_seconds=60, on_progress=kill_zygote, ranks=2
        )
    assert len(fragile.run(CASES + "who", {}, deadline_seconds=60)) == 3


@pytest.mark.parallel
def test_a_host_that_is_gone_is_one_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(UnavailableError, match="cannot enter its host") as caught,
        Pool(1, enter=[["/proc/1/ns/nothing"]], log_dir=tmp_path),
    ):
        pass
    assert "/proc/1/ns/nothing" in caught.value.text()


@pytest.mark.parallel
def test_close_leaves_nothing_behind(tmp_path: Path) -> None:
    with Pool(2, log_dir=tmp_path) as pool:
        pids = (*pool.pids, psutil.Process(pool.pids[0]).ppid())
    assert ended(pids)
    pool.close()


CALLER = """
import sys, time
from pathlib import Path
from holmes.launch.pool import Pool
with Pool(2, log_dir=Path(sys.argv[1])) as pool:
    print(*pool.pids, flush=True)
    pool.run("tests.launch.cases:report_then_hang", {}, deadline_seconds=600)
"""


@pytest.mark.parallel
def test_ranks_end_with_their_caller(tmp_path: Path) -> None:
    """However it ends: three callers side by side."""
    callers = {
        number: subprocess.Popen(
            [sys.executable, "-c", CALLER, str(tmp_path / number.name)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    }
    try:
        for number, caller in callers.items():
            assert caller.stdout is not None
            pids = tuple(int(word) for word in caller.stdout.readline().split())
            assert len(pids) == 2
            pids += (psutil.Process(pids[0]).ppid(),)
            caller.send_signal(number)
            caller.wait(timeout=30)
            assert ended(pids)
    finally:
        for caller in callers.values():
            caller.kill()
            caller.wait()
