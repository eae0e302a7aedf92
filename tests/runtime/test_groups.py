"""Groups: opening, re-opening, and everything that can be wrong with them."""

from __future__ import annotations

import socket
from dataclasses import asdict, replace

import pytest
import torch

from holmes.errors import ConfigError, UnavailableError
from holmes.launch.pool import Pool
from holmes.launch.process import free_port
from holmes.plan.layout import Layout
from holmes.runtime.capabilities import CAPABILITIES, check, refusals
from holmes.runtime.groups import GroupOptions, open_groups
from holmes.runtime.rendezvous import Rendezvous
from tests.runtime.plans import Spec, plan_of


@pytest.mark.parallel
@pytest.mark.parametrize("members", [2, 3, 4])
def test_collectives_equal_the_obvious(ranks: Pool, members: int) -> None:
    results = ranks.run(
        "tests.runtime.cases:compare_collectives",
        {"spec": asdict(Spec(dp=members))},
        deadline_seconds=60,
        ranks=members,
    )
    for result in results:
        assert result["worst_all_reduce"] < 1e-5
        assert result["maximum"] == [members - 1, 0]


@pytest.mark.parallel
def test_a_warm_process_opens_groups_again(ranks: Pool) -> None:
    ports = [free_port("127.0.0.1") for _ in range(3)]
    results = ranks.run(
        "tests.runtime.cases:reopen",
        {"spec": asdict(Spec(pp=2, dp=2, tied=True)), "ports": ports},
        deadline_seconds=60,
        ranks=4,
    )
    mine = ["data.s0", "pipeline.0-2.down", "pipeline.0-2.up", "tied.0", "world"]
    assert results[0]["names"] == [mine] * 3


@pytest.mark.parallel
def test_a_missing_interface_is_named_on_every_rank(ranks: Pool) -> None:
    results = ranks.run(
        "tests.runtime.cases:open_badly",
        {"spec": asdict(Spec(pp=2)), "interfaces": ["lo", "roce7"]},
        deadline_seconds=60,
        ranks=2,
    )
    for result in results:
        assert result["code"] == UnavailableError.exit_code
        assert "node c-1 has no interface 'roce7'" in result["text"]
        assert "rank 1" in result["text"]


def test_a_busy_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{port} is in use"):
            open_groups(plan_of(Spec(pp=2)), 0, Rendezvous("127.0.0.1", port, True))


def test_a_rank_that_does_not_come_is_named() -> None:
    port = free_port("127.0.0.1")
    options = GroupOptions(start_seconds=1.0, interface_override="lo")
    with pytest.raises(UnavailableError, match="rank 1 on c-1 did not come"):
        open_groups(plan_of(Spec(pp=2)), 0, Rendezvous("127.0.0.1", port, True), options)
    assert not torch.distributed.is_initialized()


def test_a_single_rank_needs_no_rendezvous() -> None:
    groups = open_groups(plan_of(Spec()), 0, Rendezvous("nowhere", 1, True))
    groups.barrier()
    assert groups.maximum(3.0) == (3.0,)
    groups.close()


def test_refusals_name_what_is_missing() -> None:
    plan = plan_of(Spec(pp=2))
    assert refusals(plan, CAPABILITIES) == []
    layout = Layout(tp=2, pp=2)
    other = replace(
        plan,
        layout=layout,
        stages=tuple(replace(stage, layout=layout) for stage in plan.stages),
        sharding="parameters",
        recompute="selective",
        schedule=replace(plan.schedule, name="interleaved", virtual_stages=2),
    )
    less = replace(
        CAPABILITIES,
        axes=frozenset({"pipeline", "data"}),
        schedules=frozenset({"1f1b"}),
        shardings=frozenset({"optimizer"}),
        recompute=frozenset({"none"}),
        virtual_stages=1,
    )
    with pytest.raises(ConfigError) as error:
        check(other, less)
    for phrase in (
        "tensor parallelism (degree 2)",
        "the schedule interleaved",
        "2 virtual stages",
        "sharding: parameters",
        "recompute: selective",
    ):
        assert phrase in str(error.value)
