"""Values that went wrong: skipped by all ranks, named, and computed again where need be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holmes.diagnose.diagnose import diagnose
from holmes.events.metrics import read_metrics
from holmes.train.health import culprit_of, odd_ones
from holmes.train.ledger import balance
from holmes.train.rehearsal import Rehearsal
from tests.recovery.cases import STEPS, equal, job, parameters

Session = tuple[Rehearsal, Path, Path]
NO_SHARDING = "parallel={pipeline: 1, data: 4, sharding: none}"


def test_the_culprit_is_named_where_it_is_one() -> None:
    assert culprit_of([[], ["blocks.1.x", "blocks.0.y"], []]) == (1, "blocks.1.x")
    assert culprit_of([["a"], ["b"]]) is None
    assert culprit_of([[], []]) is None


def test_the_odd_one_is_found_by_majority() -> None:
    a, b = {"s0": 1}, {"s1": 7}
    assert odd_ones([a, a, b, b]) == []
    assert odd_ones([a, {"s0": 2}, a, b]) == [1]
    assert odd_ones([a, {"s0": 2}]) == [0, 1]
    assert odd_ones([{"s0": 1}, {"s0": 2}, {"s0": 3}]) == [0, 1, 2]


@pytest.fixture(scope="module")
def session(
    on_loopback: tuple[Rehearsal, Path], tmp_path_factory: pytest.TempPathFactory
) -> Session:
    """With the folder of the text, and one for the runs."""
    return *on_loopback, tmp_path_factory.mktemp("health")


def run(session: Session, name: str, faults: list[str], *more: str) -> Path:
    rehearsal, shared, base = session
    resolved = job(shared, *more)
    plan = rehearsal.plan(resolved)
    rehearsal.run(resolved, plan, base / name, steps=STEPS, inject=faults)
    return base / name


def told(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "health.jsonl").read_text().splitlines()]


@pytest.mark.parallel
@pytest.mark.faults
def test_a_nan_is_skipped_by_all_and_its_rank_named(session: Session) -> None:
    folder = run(session, "nan", ["nan:rank=2@step=4"])
    (line,) = told(folder)
    assert (line["step"], line["kind"], line["rank"]) == (4, "skipped", 2)
    assert str(line["tensor"]).startswith("blocks.")
    assert not (folder / "recovery.json").exists()
    verdict = diagnose(folder)
    assert (verdict.cls, verdict.rank) == ("software", 2)


@pytest.mark.parallel
@pytest.mark.faults
def test_three_in_a_row_go_back_to_the_checkpoint(session: Session) -> None:
    clean = run(session, "clean", [])
    faults = [f"nan:rank=1@step={step}" for step in (4, 5, 6)]
    folder = run(session, "three", faults)
    (found,) = json.loads((folder / "recovery.json").read_text())["recoveries"]
    assert found["resumed_from"] == 6 or found["resumed_from"] == 3
    assert "3 steps in a row were skipped" in found["what"]
    account = balance(folder)
    assert account is not None and (account.lost, account.repeated) == (0, 0)
    if found["resumed_from"] == 3:
        assert equal(parameters(clean), parameters(folder))


@pytest.mark.parallel
@pytest.mark.faults
def test_a_flipped_exponent_is_a_spike(session: Session) -> None:
    """Against the norms of before a restart, too: since it there are too few to judge by."""
    faults = ["kill:rank=1@step=7", "flip:rank=3,bit=30@step=9"]
    folder = run(session, "flip", faults, "train.spike_factor=20")
    (restart,) = json.loads((folder / "recovery.json").read_text())["recoveries"]
    assert restart["resumed_from"] >= 3
    (line,) = told(folder)
    assert (line["step"], line["kind"], line["rank"]) == (9, "skipped", 3)
    losses = [step.loss for step in read_metrics(folder / "metrics.jsonl")]
    assert all(loss is not None and loss < 10 for loss in losses)


@pytest.mark.parallel
@pytest.mark.faults
def test_a_corrupt_replica_is_named_and_put_right(session: Session) -> None:
    more = (NO_SHARDING, "train.compare_replicas_every=2")
    clean = run(session, "whole", [], *more)
    assert not (clean / "health.jsonl").exists()
    folder = run(session, "corrupt", ["corrupt:rank=2,bit=3@step=4"], *more)
    (line,) = told(folder)
    assert (line["kind"], line["rank"]) == ("corrupt", 2)
    (found,) = json.loads((folder / "recovery.json").read_text())["recoveries"]
    assert found["verdict"]["rank"] == 2
    assert equal(parameters(clean), parameters(folder))
