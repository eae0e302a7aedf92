"""Block times: the roofline by hand, splits, recomputation, measured times."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holmes.cost.calibration import (
    DEFAULT,
    LAB,
    BlockTime,
    calibration_from_dict,
)
from holmes.cost.compute import block_seconds, optimizer_seconds
from holmes.cost.execution import Execution, TensorLink
from holmes.cost.kernels import matmul_rate
from holmes.cost.model import CostModel
from holmes.errors import ConfigError, DataError
from holmes.hardware.catalogue import DeviceKind, resolve
from holmes.hardware.site import Cluster, Device, Fabric, Nic, Site
from holmes.hardware.topology import Topology
from holmes.models.gpt.config import GptConfig
from holmes.models.gpt.describe import workload
from holmes.workload import Block, Collective, Segment, Workload

A100 = resolve(Device(kind="a100-80g-sxm"))


def block(*inner: Segment | Collective) -> Block:
    return Block("b", "transformer", 1000, 1, inner, {"none": 1.0, "full": 0.1}, 1.0)


def test_wide_products_run_at_the_matmul_rate_and_light_work_at_the_memory_rate() -> None:
    c = DEFAULT.compute
    wide = block_seconds(block(Segment("m", 1e15, 1.0)), A100, DEFAULT, 2)
    assert wide.forward == pytest.approx(2e15 / matmul_rate(A100, c), rel=1e-3)
    assert wide.backward == pytest.approx(2 * wide.forward, rel=1e-3)
    light = block_seconds(block(Segment("n", 0.0, 1e12)), A100, DEFAULT, 1)
    assert light.forward == pytest.approx(1e12 / (2039e9 * c.memory_fraction), rel=1e-3)


def test_narrow_products_are_slower_per_flop() -> None:
    rates = []
    for hidden in (256, 1024, 8192):
        work = block(Segment("m", 6.0 * 1024 * hidden**2, 8.0 * 1024 * hidden))
        rates.append(6.0 * 8 * 1024 * hidden**2 / block_seconds(work, A100, DEFAULT, 8).forward)
    assert rates == sorted(rates)


def test_a_measured_block_is_shared_as_the_analytic_model_has_it() -> None:
    half, talk = Segment("m", 1e9, 1.0), Collective("all_reduce", "tensor", 1e6, "forward")
    work = block(half, Segment("n", 1e9, 1.0, split=()), talk)
    kind = resolve(Device(kind="cpu-core"))
    measured = {kind.name: {"transformer": BlockTime(4.0, 8.0)}}
    known = LAB.with_blocks(measured, micro=1, source="by hand")
    two = block_seconds(work, kind, known, 1, tp=2)
    link = known.link("intra-node")
    exchange = 2 * link.step_seconds + 1e6 / link.bytes_per_second(2e9)
    assert two.forward == pytest.approx(4.0 * 3 / 4 + exchange, rel=1e-3)
    split = replace(known, split_blocks={2: {kind.name: {"transformer": BlockTime(3.0, 5.0)}}})
    assert block_seconds(work, kind, split, 2, tp=2) == BlockTime(6.0, 10.0)


def test_tensor_ranks_divide_what_is_split_and_pay_for_their_collectives() -> None:
    split, whole = Segment("m", 1e15, 1.0), Segment("n", 1e15, 1.0, split=())
    one = block_seconds(block(split, whole), A100, DEFAULT, 1).forward
    four = block_seconds(block(split, whole), A100, DEFAULT, 1, tp=4).forward
    assert four == pytest.approx(one * 5 / 8, rel=1e-2)
    talk = Collective("all_reduce", "tensor", 1e9, "forward")
    paid = block_seconds(block(split, talk), A100, DEFAULT, 1, tp=4).forward
    free = block_seconds(block(split), A100, DEFAULT, 1, tp=4).forward
    assert paid - free == pytest.approx(2 * 0.75 * 1e9 / (0.77 * 300e9), rel=0.02)


def test_each_further_member_may_come_late_to_a_collective() -> None:
    """Two all-reduces of a layer's forward and two of its backward wait for tp - 1 others."""
    layer, late = workload(GptConfig(2, 4096, 32, 2048, 51200), "mixed").blocks[1], 1e-4
    prompt, waiting = (
        replace(DEFAULT, compute=replace(DEFAULT.compute, arrival_seconds=seconds, host_seconds=0))
        for seconds in (0.0, late)
    )
    for tp in (1, 2, 8):
        before, after = (block_seconds(layer, A100, c, 1, tp) for c in (prompt, waiting))
        assert after.forward - before.forward == pytest.approx(2 * (tp - 1) * late, abs=1e-12)
        assert after.backward - before.backward == pytest.approx(2 * (tp - 1) * late, abs=1e-12)


def test_an_error_is_a_share_of_what_is_measured() -> None:
    low, high = DEFAULT.bounds(1.0, ["a100-80g-sxm"])
    assert 1.0 / low - 1 == pytest.approx(DEFAULT.interval)
    assert 1.0 / high - 1 == pytest.approx(-DEFAULT.interval)
    low, high = replace(DEFAULT, interval=3.0).bounds(1.0, ["a100-80g-sxm"])
    assert 0 < low < 1 < high < 11


def test_full_recomputation_adds_a_forward() -> None:
    work = block(Segment("attention", 1e14, 1.0, selective=1.0), Segment("mlp", 1e15, 1.0))
    none = block_seconds(work, A100, DEFAULT, 1)
    full = block_seconds(work, A100, DEFAULT, 1, recompute="full")
    selective = block_seconds(work, A100, DEFAULT, 1, recompute="selective")
    assert full.forward == none.forward
    assert full.backward == pytest.approx(none.backward + none.forward)
    assert none.backward < selective.backward < full.backward
    light = block_seconds(
        replace(work, activation_bytes={"none": 1.0, "full": 1.0}),
        A100,
        DEFAULT,
        1,
        recompute="full",
    )
    assert light == none  # What keeps as much repeats nothing.


def test_short_kernels_wait_for_the_host_and_long_ones_hide_it() -> None:
    host = DEFAULT.compute.host_seconds
    short = block_seconds(block(*(Segment("n", 0.0, 1e3, kernels=5),) * 4), A100, DEFAULT, 1)
    assert short.forward == pytest.approx(20 * host, rel=1e-3)
    long = block_seconds(block(*(Segment("n", 0.0, 1e11, kernels=5),) * 4), A100, DEFAULT, 1)
    without = replace(DEFAULT, compute=replace(DEFAULT.compute, host_seconds=0.0))
    free = block_seconds(block(*(Segment("n", 0.0, 1e11, kernels=5),) * 4), A100, without, 1)
    assert long.forward == pytest.approx(free.forward, rel=1e-3)


def test_sequence_parallel_compiled_and_context_executions_do_less() -> None:
    layer = workload(GptConfig(2, 4096, 32, 2048, 51200), "mixed").blocks[1]

    def seconds(how: Execution, tp: int = 4) -> float:
        return block_seconds(layer, A100, DEFAULT, 4, tp, "none", how).forward

    plain = seconds(Execution())
    assert seconds(Execution(sequence_parallel=True)) < plain
    assert seconds(Execution(compiled=True)) < plain
    assert seconds(Execution(async_tensor=True)) < plain
    assert seconds(Execution(context=2), 1) < seconds(Execution(), 1)
    slow = TensorLink(1e9, 1e-5, 1e-5)
    assert seconds(Execution(tensor_link=slow)) > 2 * plain
    adding = replace(slow, switch_adds=True)
    assert seconds(Execution(tensor_link=adding), 8) < seconds(Execution(tensor_link=slow), 8)


def test_a_tensor_group_that_leaves_its_node_uses_its_cards() -> None:
    nics = (Nic(kind=Fabric.INFINIBAND, gbit_s=200, count=4),)
    device = Device(kind="a100-80g-sxm", count=8)
    site = Site(name="s", clusters=(Cluster(name="c", nodes=2, device=device, nics=nics),))
    work = workload(GptConfig(2, 6144, 48, 2048, 51200), "mixed")
    cost = CostModel(Topology(site), work, DEFAULT)
    slot = cost.topology.devices[0]
    inside, across = (cost.block_time(1, slot, 4, tp).forward for tp in (8, 16))
    assert across > inside
    split = cost.block_time(1, slot, 4, 8, sequence_parallel=True).forward
    assert split < inside


def test_measured_times_win_scale_with_samples_and_divide_by_speed() -> None:
    measured = LAB.with_blocks(
        {"cpu-core": {"transformer": BlockTime(0.1, 0.3)}}, micro=2, source="profile"
    )
    half = resolve(Device(kind="cpu-core", speed=0.5))
    time = block_seconds(block(Segment("m", 1e15, 1.0)), half, measured, 4)
    assert time == BlockTime(pytest.approx(0.4), pytest.approx(1.2))


def test_a_missing_figure_is_named() -> None:
    with pytest.raises(ConfigError, match="no memory_gbytes_s"):
        block_seconds(block(Segment("n", 0.0, 1.0)), DeviceKind("odd", "Odd"), DEFAULT, 1)


def test_optimizer_is_measured_or_bound_by_memory() -> None:
    analytic = optimizer_seconds(1e9, 32, A100, DEFAULT)
    c = DEFAULT.compute
    assert analytic == pytest.approx(
        32e9 * c.optimizer_passes / (2039e9 * c.memory_fraction) + c.step_launch_seconds
    )
    measured = LAB.with_blocks({}, micro=1, source="x", optimizer_seconds_per_element=2e-9)
    assert optimizer_seconds(1e6, 32, resolve(Device(kind="cpu-core")), measured) == 2e-3


def test_calibrations_survive_json() -> None:
    measured = LAB.with_blocks(
        {"cpu-core": {"head": BlockTime(0.1, 0.2)}}, micro=2, source="profile"
    )
    for calibration in (DEFAULT, LAB, measured):
        assert calibration_from_dict(calibration.to_dict()) == calibration
    with pytest.raises(DataError, match="bad calibration"):
        calibration_from_dict({**LAB.to_dict(), "compute": 3})
    with pytest.raises(DataError, match="no figures for pigeon"):
        LAB.link("pigeon")


def test_the_cost_model_adds_blocks_and_applies_the_sites_speed() -> None:
    nics = (Nic(kind=Fabric.ETHERNET, gbit_s=1),)
    clusters = tuple(
        Cluster(name=n, nodes=1, device=Device(kind="cpu-core", speed=s), nics=nics)
        for n, s in (("fast", 1.0), ("slow", 0.5))
    )
    work = Workload("w", "gpt", 8, 8, 1, 8, (block(Segment("m", 1e12, 1.0)),) * 3)
    topology = Topology(Site(name="s", clusters=clusters))
    cost = CostModel(topology, work, LAB)
    fast, slow = (cost.blocks_time((0, 2), slot, 1) for slot in topology.devices)
    assert slow.forward == pytest.approx(2 * fast.forward)
    assert fast.forward == pytest.approx(2 * cost.block_time(2, topology.devices[0], 1).forward)


def test_one_scale_serves_both_products_that_read_an_operand() -> None:
    """Rows scaled by themselves are others when transposed, and are gathered unscaled."""
    layer = workload(GptConfig(2, 4096, 32, 2048, 51200), "mixed").blocks[1]
    h100 = resolve(Device(kind="h100-80g-sxm"))

    def time(rows: bool, tp: int) -> BlockTime:
        how = Execution(sequence_parallel=tp > 1, width=1, row_scales=rows)
        return block_seconds(layer, h100, DEFAULT, 8, tp, "none", how)

    assert time(False, 1).forward == time(True, 1).forward
    assert time(False, 1).backward < time(True, 1).backward
    assert time(False, 4).forward < time(True, 4).forward


def test_an_fp8_recipe_leaves_the_head_in_half_precision() -> None:
    head = workload(GptConfig(2, 4096, 32, 2048, 51200), "mixed").blocks[-1]
    h100 = resolve(Device(kind="h100-80g-sxm"))
    half, eight = (
        block_seconds(head, h100, DEFAULT, 1, 1, "none", Execution(width=width)) for width in (2, 1)
    )
    assert half == eight


def test_recomputation_that_stops_early_leaves_out_the_last_product() -> None:
    """And what it gathers again is no longer gathered for the gradients of weights."""
    c = replace(DEFAULT.compute, host_seconds=0.0, arrival_seconds=0.0)
    calibration = replace(DEFAULT, compute=c)
    first, last = (
        Segment("up", 1e14, 1.0, weight_bytes=1.0),
        Segment("d", 3e14, 1.0, weight_bytes=1.0),
    )
    enters = Collective("all_reduce", "tensor", 1e9, "backward")
    work = block(first, enters, replace(enters, direction="forward"), last)
    work = replace(work, inner=(enters, first, last, replace(enters, direction="forward")))
    how = Execution(sequence_parallel=True)

    def again(how: Execution) -> float:
        times = [
            block_seconds(work, A100, calibration, 1, 8, mode, how) for mode in ("full", "none")
        ]
        return times[0].backward - times[1].backward

    ahead = block_seconds(work, A100, calibration, 1, 8, "full", how).forward
    assert again(how) == pytest.approx(ahead)
    early = again(replace(how, stops_early=True))
    alone = block_seconds(block(first), A100, calibration, 1, 8).forward
    assert early == pytest.approx(alone, rel=1e-3)


def test_tokens_that_are_copied_pass_memory_twice_at_each_gather_and_scatter() -> None:
    enters = Collective("all_reduce", "tensor", 1e9, "backward")
    work = block(enters, Segment("up", 1e14, 1.0))
    plain, copied = (
        block_seconds(
            work, A100, DEFAULT, 1, 8, how=Execution(sequence_parallel=True, copies_tokens=c)
        )
        for c in (False, True)
    )
    memory = 2039e9 * DEFAULT.compute.memory_fraction
    assert copied.forward - plain.forward == pytest.approx(2e9 / memory, rel=1e-2)
    assert copied.backward - plain.backward == pytest.approx(4e9 / memory, rel=1e-2)
