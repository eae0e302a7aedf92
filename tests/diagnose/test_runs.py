"""Faults injected into rehearsals on four shaped hosts: the class, the victim and how soon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from holmes.diagnose.diagnose import diagnose
from holmes.diagnose.verdict import Verdict
from holmes.errors import RankDiedError
from holmes.lab.probe import capabilities
from holmes.launch.failures import RankKilledError, StalledError
from holmes.train.rehearsal import Rehearsal
from holmes.train.show import Progress
from tests.diagnose.cases import job

pytestmark = [
    pytest.mark.lab,
    pytest.mark.faults,
    pytest.mark.skipif(not capabilities().shaped, reason="links cannot be shaped here"),
]
FREEZE_SECONDS = 6.0


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    quiet = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
    with Rehearsal(job(), tmp_path_factory.mktemp("logs"), quiet) as opened:
        opened.calibrate(1)
        yield opened


def run(rehearsal: Rehearsal, folder: Path, *faults: str) -> Verdict:
    plan = rehearsal.plan(job())
    rehearsal.run(job(), plan, folder, steps=24, inject=faults)
    return diagnose(folder)


def fails(rehearsal: Rehearsal, folder: Path, fault: str) -> tuple[RankDiedError, Verdict, float]:
    """The error, the verdict, and seconds from the fault until it was noticed."""
    with pytest.raises(RankDiedError) as failure:
        run(rehearsal, folder, fault)
    (truth,) = json.loads((folder / "injected.json").read_text())["faults"]
    noticed = json.loads((folder / "evidence.json").read_text())["noticed_ns"]
    assert (folder / "diagnosis.json").exists()
    return failure.value, diagnose(folder), (noticed - truth["at_ns"]) / 1e9


def test_a_killed_rank_is_dead(rehearsal: Rehearsal, tmp_path: Path) -> None:
    error, verdict, seconds = fails(rehearsal, tmp_path, "kill:rank=2@step=5,phase=backward")
    assert isinstance(error, RankKilledError)
    assert (verdict.cls, verdict.rank, verdict.host) == ("dead", 2, "a-2")
    assert seconds < 1.0
    assert "diagnosis: dead: rank 2" in error.text()
    assert "rehearsal.devices=real" in error.text()  # why it was not started again


def test_a_stopped_rank_is_frozen(rehearsal: Rehearsal, tmp_path: Path) -> None:
    error, verdict, seconds = fails(rehearsal, tmp_path, "freeze:rank=1@step=6")
    assert isinstance(error, StalledError)
    assert (verdict.cls, verdict.rank, verdict.host) == ("frozen", 1, "a-1")
    assert seconds < FREEZE_SECONDS


def test_a_card_without_carrier_is_a_cut_link(rehearsal: Rehearsal, tmp_path: Path) -> None:
    _, verdict, _ = fails(rehearsal, tmp_path, "cut:host=a-3,nic=ethernet@step=6")
    assert (verdict.cls, verdict.host, verdict.nic) == ("cut-link", "a-3", "ethernet")


def test_slow_ranks_and_cards_are_told_apart(rehearsal: Rehearsal, tmp_path: Path) -> None:
    assert run(rehearsal, tmp_path / "healthy").cls == "none"
    slow = run(rehearsal, tmp_path / "slow", "slow:rank=3,share=0.5@step=12")
    assert (slow.cls, slow.rank) == ("slow-compute", 3)
    (tmp_path / "slow" / "injected.json").write_text("not JSON")
    assert diagnose(tmp_path / "slow") == slow  # it does not read the truth
    capped = run(rehearsal, tmp_path / "rate", "rate:host=a-2,nic=ethernet,share=0.5@step=12")
    assert (capped.cls, capped.host, capped.nic) == ("slow-link", "a-2", "ethernet")


def test_lost_packets_name_the_card(rehearsal: Rehearsal, tmp_path: Path) -> None:
    fault = "loss:host=a-2,nic=ethernet,percent=1@step=12"
    lossy = run(rehearsal, tmp_path, fault)
    assert (lossy.cls, lossy.host, lossy.nic) == ("lossy-link", "a-2", "ethernet")
    (truth,) = json.loads((tmp_path / "injected.json").read_text())["faults"]
    assert 0.003 < truth["relay"]["lost"] / truth["relay"]["frames"] < 0.03
