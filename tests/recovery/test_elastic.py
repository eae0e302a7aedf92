"""Hosts that go and come back: plans for what is left, and a run that goes on over them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holmes.errors import ConfigError
from holmes.events.metrics import read_metrics
from holmes.hardware.topology import Topology
from holmes.job.resolve import ResolvedJob, resolve_job
from holmes.lab.faults import parse_faults
from holmes.lab.probe import capabilities
from holmes.launch.environment import RankEnvironment
from holmes.plan.codec import read_plan, write_plan
from holmes.plan.plan import Plan
from holmes.runtime.capabilities import check
from holmes.train import local
from holmes.train.assignment import Assignment
from holmes.train.elastic import plan_of_launch, plan_without, remaining
from holmes.train.identity import identity_of
from holmes.train.injection import check_faults
from holmes.train.ledger import balance
from holmes.train.planning import default_calibration
from holmes.train.rehearsal import Rehearsal
from holmes.train.run_folder import chosen_plan, first_plan
from holmes.train.show import Progress
from tests.recovery.cases import job

STEPS = 40
MORE = f"train={{steps: {STEPS}, evaluate_batches: 0, trace_steps: 2, checkpoint_every: 10}}"
LOSS_TOLERANCE = 1e-5
"""Gradients of the same samples are added in another order, in fp32, step after step."""
QUIET = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
DEMO = ["site=demo", "model={preset: gpt-1m}", "batch={global: 12, micro: 1}"]


def demo(*more: str) -> ResolvedJob:
    return resolve_job(None, [*DEMO, *more], {})


@pytest.mark.parametrize("gone", [{"ib-0"}, {"roce-1"}, {"ib-0", "roce-1"}, {"ib-0", "ib-1"}])
def test_a_plan_of_what_is_left_uses_no_host_that_is_gone(gone: set[str]) -> None:
    resolved = demo("parallel={pipeline: 2, data: 2}")
    plan = plan_without(resolved, frozenset(gone), default_calibration(resolved), None)
    nodes = {Topology(plan.site).devices[index].node.name for index in plan.rank_map}
    assert nodes == {"ib-0", "ib-1", "roce-0", "roce-1"} - gone
    assert plan.site == resolved.site and plan.batch.global_ == 12
    assert plan.world_size == 4 - len(gone)
    for group in plan.groups:
        assert set(group.interfaces) <= nodes
    check(plan)


def test_rates_follow_their_hosts_and_links() -> None:
    resolved = demo()
    from holmes.lab.rates import rehearsal_rates

    shaped = rehearsal_rates(resolved.site)
    rates: Mapping[Any, float] = {**shaped.nics, **shaped.links}
    plan = plan_without(resolved, frozenset({"ib-0"}), default_calibration(resolved), rates)
    assert plan.predicted.step_seconds > 0
    site, nodes = remaining(resolved.site, frozenset({"ib-0"}))
    assert nodes == [1, 2, 3] and len(site.links) == 1
    site, nodes = remaining(resolved.site, frozenset({"ib-0", "ib-1"}))
    assert nodes == [2, 3] and len(site.clusters) == 1 and site.links == ()


def test_nothing_left_is_refused() -> None:
    resolved = demo("model.layers=1")
    with pytest.raises((ConfigError, ValueError)):
        gone = frozenset({"ib-0", "ib-1", "roce-0", "roce-1"})
        plan_without(resolved, gone, default_calibration(resolved), None)


def test_a_host_is_a_fault_with_a_return() -> None:
    topology = Topology(demo().site)
    (fault,) = parse_faults(["host:host=ib-1,back=9@step=4"], topology, 20)
    assert (fault.host, fault.step, fault.back, fault.nic) == ("ib-1", 4, 9, None)
    for text in ("host:host=ib-9@step=4", "host:host=ib-1,back=3@step=4", "host@step=1"):
        with pytest.raises(ConfigError):
            parse_faults([text], topology, 20)
    with pytest.raises(ConfigError, match="virtual"):
        check_faults(["host:host=ib-1@step=4"], topology, 20, virtual=True)


def started(world: int, **more: Any) -> RankEnvironment:
    """One process a node, of so many nodes, none of which the site knows by name."""
    given = {"host_name": "desk", "one_host": False, **more}
    return RankEnvironment(0, world, 0, given.pop("node_name", None), 0, "127.0.0.1", 1, **given)


def test_a_launcher_with_fewer_nodes_gets_a_plan_for_them() -> None:
    """torchrun numbers what is left from 0; all nodes are used once all are back."""
    resolved = demo("parallel={pipeline: 2, data: 2}")
    full = plan_without(resolved, frozenset(), default_calibration(resolved), None)
    assert plan_of_launch(full, resolved, started(4)) is full
    assert plan_of_launch(full, resolved, started(5)) is full  # refused when ranks are seated
    smaller = plan_of_launch(full, resolved, started(3))
    assert sorted(smaller.rank_map) == [0, 1, 2] and smaller.batch == full.batch
    for named in ({"node_name": "ib-0"}, {"host_name": "roce-1.cluster"}):
        with pytest.raises(ConfigError, match="a plan of 4") as caught:
            plan_of_launch(full, resolved, started(3, **named))
        assert "--plan less.json" in caught.value.text()


TYPED = ["parallel.pipeline=2", "parallel.data=2", "train.trace_steps=2"]
Generation = tuple[int, Path | None]
"""How many nodes are there, and what the command gives as ``--plan``."""


@pytest.fixture
def generations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Assignment]]:
    """Start one run under torchrun again and again; what ranks 1 and 0 would have run.

    Rank 1 reads the folder before rank 0 writes to it and once more after that.
    """
    desk = demo(*TYPED, f"output={tmp_path}", "name=r")
    seen: list[Assignment] = []

    def run_here(task: str, arguments: dict[str, Any], **rest: Any) -> dict[str, Any]:
        seen.append(Assignment.from_json(arguments["assignment"]))
        return {"stopped": False, "rank": 1}

    def launch(*worlds: Generation) -> list[Assignment]:
        for attempt, (world, plan) in enumerate(worlds):
            ranks = []
            for rank in (1, 0, 1) if attempt else (0,):
                here = replace(started(world, attempt=attempt), launch_rank=rank, local_rank=1)
                monkeypatch.setattr(local, "from_environ", lambda environ, here=here: here)
                local._launched(desk, resume=attempt > 0, plan_file=plan, progress=QUIET)
                ranks.append(seen.pop())
            assert {json.dumps(told(one)) for one in ranks} == {json.dumps(told(ranks[0]))}
            seen.append(ranks[0])
        return seen

    monkeypatch.setattr(local, "run_here", run_here)
    return launch


def by_hand(path: Path) -> Plan:
    """A plan that the planner does not make for the run, as a file."""
    resolved = demo(*TYPED, "parallel.schedule=gpipe")
    plan = local._plan(resolved, path.parent, resume=False, plan_file=None)
    write_plan(plan, path)
    return plan


def told(given: Assignment) -> dict[str, str]:
    return {key: value for key, value in identity_of(given).items() if key in ("job", "plan")}


def test_nodes_go_twice_and_come_back(
    generations: Callable[..., list[Assignment]], tmp_path: Path
) -> None:
    """With degrees that only the whole site can have, typed on the command line."""
    found = generations((4, None), (3, None), (2, None), (2, None), (3, None), (4, None))
    assert [one.plan.world_size for one in found] == [4, 3, 2, 2, 3, 4]
    assert [one.job.train.trace_steps for one in found] == [2, 0, 0, 0, 0, 2]
    assert found[-1].plan == found[0].plan == first_plan(tmp_path / "r")
    assert found[3].plan.rank_map == found[2].plan.rank_map == (0, 1)
    assert read_plan(tmp_path / "r" / "plan.json") == found[-1].plan


def test_nodes_come_back_to_the_plan_that_was_given(
    generations: Callable[..., list[Assignment]], tmp_path: Path
) -> None:
    given = by_hand(tmp_path / "given.json")
    found = generations((4, tmp_path / "given.json"), (2, tmp_path / "given.json"), (4, None))
    assert [one.plan.world_size for one in found] == [4, 2, 4]
    assert found[0].plan == found[2].plan == given


def test_a_plan_given_later_is_gone_on_with_untraced(
    generations: Callable[..., list[Assignment]], tmp_path: Path
) -> None:
    run, path = tmp_path / "r", tmp_path / "given.json"
    given = by_hand(path)
    found = generations((4, None), (4, path), (2, None), (4, None), (4, run / "plans/first.json"))
    first = found[0].plan
    assert first.schedule.digest != given.schedule.digest and found[2].plan.world_size == 2
    assert [found[1].plan, *[one.plan for one in found[3:]]] == [given, given, first]
    assert [one.job.train.trace_steps for one in found] == [2, 0, 0, 0, 2]
    assert chosen_plan(run).name == "given.json" and first_plan(run) == first


@pytest.mark.lab
@pytest.mark.faults
@pytest.mark.skipif(not capabilities().shaped, reason="links cannot be shaped here")
def test_four_hosts_then_three_then_four(on_hosts: tuple[Rehearsal, Path], tmp_path: Path) -> None:
    rehearsal, shared = on_hosts
    resolved = job(shared, MORE)
    plan = rehearsal.plan(resolved)
    for name, faults in (("clean", []), ("elastic", ["host:host=a-3,back=16@step=12"])):
        rehearsal.run(resolved, plan, tmp_path / name, steps=STEPS, inject=faults)
    run = tmp_path / "elastic"
    found = json.loads((run / "recovery.json").read_text())["recoveries"]
    assert [one["hosts"] for one in found] == [3, 4]
    assert found[0]["verdict"]["class"] == "dead" and found[0]["verdict"]["host"] == "a-3"
    assert found[1]["steps_lost"] == 0
    account = balance(run)
    assert account is not None
    assert (account.samples, account.lost, account.repeated) == (12 * STEPS, 0, 0)
    clean, elastic = (read_metrics(tmp_path / n / "metrics.jsonl") for n in ("clean", "elastic"))
    assert len(clean) == len(elastic) == STEPS
    for a, b in zip(clean, elastic, strict=True):
        assert a.loss is not None and b.loss is not None
        assert abs(a.loss - b.loss) <= LOSS_TOLERANCE * a.loss
    assert elastic[-1].loss < elastic[0].loss - 0.05  # type: ignore[operator]
    assert read_plan(run / "plan.json") == plan
    ahead = sorted(path.stem for path in (run / "plans").glob("without-*.json"))
    assert [f"without-a-{i}" for i in range(4)] == [name for name in ahead if "and" not in name]
    assert len(ahead) == 10
