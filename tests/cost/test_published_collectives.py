"""Every published collective of the catalogue against the network model.

Rows that are reports of a problem, or of unknown machines, bound the model from one side or are
listed with the reason; no row is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from holmes.cost.calibration import DEFAULT
from holmes.cost.network import GBIT, Network
from holmes.hardware.catalogue import measurements
from holmes.hardware.site import Cluster, Device, Fabric, Nic, Site
from holmes.hardware.topology import Topology
from holmes.schedule.instruction import Op

TOLERANCE = 0.15
"""Of well-configured machines at 64 MiB or more."""
SMALL_TOLERANCE = 0.3
"""Below, and on V100 at 64 MiB: one latency stands for all NVLink generations."""
GIB, MIB = 2**30, 2**20
IB, ROCE = Fabric.INFINIBAND, Fabric.ROCE


@dataclass(frozen=True)
class Machine:
    """What a row ran on, and the payload."""

    kind: str
    members: int = 8
    nodes: int = 1
    nic: tuple[Fabric, float, int] = (IB, 200, 4)
    link: float | None = None
    op: Op = Op.ALL_REDUCE
    bytes: float = GIB

    def bus_gbytes_s(self, algorithm: str | None = None) -> float:
        """Bus bandwidth as nccl-tests count it."""
        fabric, gbit_s, count = self.nic
        device = Device(kind=self.kind, count=self.members, link_gbytes_s=self.link)
        nics = (Nic(kind=fabric, gbit_s=gbit_s, count=count),)
        cluster = Cluster(name="c", nodes=self.nodes, device=device, nics=nics)
        n = self.members * self.nodes
        net = Network(Topology(Site(name="one", clusters=(cluster,))), tuple(range(n)), DEFAULT)
        found = net.collective(self.op, range(n), self.bytes, fabric)
        if algorithm is not None:
            assert found.algorithm == algorithm
        rounds = 2 if self.op is Op.ALL_REDUCE else 1
        return rounds * (n - 1) / n * self.bytes / found.seconds / 1e9


A100, V100, H200, B200 = "a100-80g-sxm", "v100-16g-sxm2", "h200-141g-sxm", "b200-180g-sxm"
NEAR = {
    "A100-SXM 2 GPU one node, 1 GiB fp32 all-reduce": Machine(A100, 2),
    "A100-SXM 4 GPU one node, 1 GiB all-reduce": Machine(A100, 4),
    "A100-SXM 8 GPU one node, 1 GiB all-reduce": Machine(A100),
    "V100 2 GPU one node, 1 GiB all-reduce": Machine(V100, 2, link=25),
    "V100 8 GPU one node, 1 GiB all-reduce": Machine(V100),
    "H200 8 GPU one node, 16 GiB all-reduce NVLS": Machine(H200, bytes=16 * GIB),
    "H200 8 GPU one node, all-gather ring": Machine(H200, op=Op.ALL_GATHER),
    "H200 8 GPU one node, reduce-scatter ring": Machine(H200, op=Op.REDUCE_SCATTER),
    "B200 8 GPU one node, 8 GiB all-reduce NVLS": Machine(B200, bytes=8 * GIB),
    "2x8 A100, 4x HDR-200 InfiniBand per node, all-reduce": Machine(A100, nodes=2),
    "2x8 A100, 4x200G IB, all-reduce": Machine(A100, nodes=2),
    "2x8 A100, 8x100G RoCE, all-reduce": Machine(A100, nodes=2, nic=(ROCE, 100, 8)),
    "2 nodes p4d (4x100G EFA), 1 GiB all-reduce": Machine(A100, nodes=2, nic=(ROCE, 100, 4)),
}
RINGS = {
    # Gathering twice is what an all-reduce does without the switch.
    "H200 8 GPU one node, 16 GiB all-reduce ring (NVLS off)": Machine(H200, op=Op.ALL_GATHER),
    "B200 8 GPU one node, 8 GiB all-reduce ring": Machine(B200, op=Op.ALL_GATHER),
}
NOT_BELOW = {
    # The source calls these slower than they should be.
    "2x8 A100, one 200G RoCEv2 NIC, all-reduce, ACS on": Machine(A100, nodes=2, nic=(ROCE, 200, 1)),
    "2x8 H100, 8x400G RoCEv2, 8 GiB all-reduce": Machine(
        "h100-80g-sxm", nodes=2, nic=(ROCE, 400, 8), bytes=8 * GIB
    ),
    "4 nodes p4d (4x100G EFA), 1 GiB all-reduce": Machine(A100, nodes=4, nic=(ROCE, 100, 4)),
}
ON_ONE_WIRE = {
    # GB/s of TCP or of one card, by line rate in Gbit/s and connections.
    "32G TCP (cloud), NCCL reaches at most 60% of wire": ("ethernet", 32, 1),
    "100G TCP sockets, multi-node all-reduce 16 MiB": ("ethernet", 100, 2),
    "H100 NDR 400G expectation per NIC": ("infiniband", 400, 1),
}
UNKNOWN_MACHINES = {
    "2-node H200 NVL 4x CX-7 RoCE, large all-reduce": "rate per card and PCIe path not stated",
    "GCP A100-40 nodes, inter-node fit at large message": "line rate not stated, see the TCP test",
    "GCP A100-80 nodes, inter-node fit": "line rate not stated",
    "GCP V100-16 nodes, inter-node fit": "line rate not stated",
    "A100-40 intra-node fit": "operation not stated",
    "V100-16 intra-node fit": "operation and wiring not stated",
    "Frontier-like SS11, 4 nodes MI250X, all-gather 1 MiB (aws-ofi-rccl, bad tuning)": "bad tuning",
    "2-node MI350X all-reduce 128 MiB": "kind not in the catalogue",
}
PUBLISHED = {row.what: row.busbw_gbytes_s for row in measurements() if row.busbw_gbytes_s}


def test_every_published_row_has_its_place() -> None:
    tables = (NEAR, RINGS, NOT_BELOW, ON_ONE_WIRE, UNKNOWN_MACHINES)
    places = [what for table in tables for what in table]
    assert sorted(places) == sorted(PUBLISHED)


@pytest.mark.parametrize("what", [*NEAR, *RINGS])
def test_collectives_reach_the_published_bandwidth(what: str) -> None:
    machine = {**NEAR, **RINGS}[what]
    assert machine.bus_gbytes_s() == pytest.approx(PUBLISHED[what], rel=TOLERANCE)


@pytest.mark.parametrize("what", NOT_BELOW)
def test_reports_of_a_problem_are_below_the_model(what: str) -> None:
    assert NOT_BELOW[what].bus_gbytes_s() > PUBLISHED[what]


@pytest.mark.parametrize("what", ON_ONE_WIRE)
def test_wires_carry_what_was_measured(what: str) -> None:
    transport, gbit_s, connections = ON_ONE_WIRE[what]
    link = DEFAULT.link(transport)
    rate = link.bytes_per_second(gbit_s * GBIT, connections)
    assert rate / 1e9 == pytest.approx(PUBLISHED[what], rel=TOLERANCE)


@pytest.mark.parametrize(
    ("kind", "bytes_", "published", "tolerance"),
    [
        (A100, MIB, 19.8, SMALL_TOLERANCE),
        (A100, 16 * MIB, 126.0, SMALL_TOLERANCE),
        (A100, 64 * MIB, 202.0, TOLERANCE),
        (V100, MIB, 23.0, SMALL_TOLERANCE),
        (V100, 64 * MIB, 128.9, SMALL_TOLERANCE),
    ],
)
def test_bandwidth_over_message_size(
    kind: str, bytes_: int, published: float, tolerance: float
) -> None:
    """The further sizes that the sources of the 8-device rows give."""
    assert Machine(kind, bytes=bytes_).bus_gbytes_s("ring") == pytest.approx(
        published, rel=tolerance
    )


def test_the_cheapest_way_depends_on_size_and_machine() -> None:
    one_each = Machine(A100, members=1, nodes=64, bytes=MIB)
    one_each.bus_gbytes_s("tree")
    Machine(A100, members=1, nodes=64, bytes=64 * GIB).bus_gbytes_s("ring")
    Machine(H200).bus_gbytes_s("in-switch")
    Machine(H200, members=2).bus_gbytes_s("ring")
    Machine(A100, members=8, nodes=3, nic=(IB, 100, 1)).bus_gbytes_s("hierarchical")


def test_tcp_grows_with_size_and_connections_up_to_the_line() -> None:
    """2.42, 3.67 and 6.04 GB/s with 1, 2 and 4 members a node on lines of 24, 32 and 50 Gb/s
    (the lines are recalled); two connections on 100 Gb/s carry twice what one does."""
    link = DEFAULT.link("ethernet")
    for members, gbit_s, published in ((1, 24, 2.42), (2, 32, 3.67), (4, 50, 6.04)):
        rate = link.bytes_per_second(gbit_s * GBIT, members)
        assert rate / 1e9 == pytest.approx(published, rel=TOLERANCE)
    line = 100 * GBIT
    sizes = [link.curve(2.0**size, line, 1) for size in range(10, 32)]
    assert sizes == sorted(sizes) and sizes[0] < 0.01 * sizes[-1]
    rates = [link.bytes_per_second(line, connections) for connections in range(1, 9)]
    assert rates[1] == 2 * rates[0] and rates[-1] == 0.92 * line == rates[-2]
    # At 1 MiB several connections pay less than at 1 GiB.
    gain = [link.curve(size, line, 4) / link.curve(size, line, 1) for size in (MIB, GIB)]
    assert gain[0] < gain[1] < 4.0


def test_a_long_way_opens_the_window_slowly() -> None:
    link = DEFAULT.link("ethernet")
    near, far = (link.opening_seconds(1e9, 1e9, hop) for hop in (50e-6, 25e-3))
    assert near == pytest.approx(1e-4 * 2.973, rel=0.01)
    assert far == pytest.approx(50e-3 * 11.742, rel=0.01)
    assert link.opening_seconds(1000.0, 1e9, 25e-3) < 0.1 * far
    assert DEFAULT.link("infiniband").opening_seconds(1e9, 1e9, 25e-3) == 0.0
