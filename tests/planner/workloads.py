"""Small workloads and sites for planner tests; figures are round so that sums can be read."""

from __future__ import annotations

from holmes.hardware.site import Site
from holmes.workload import Block, Segment, Workload


def chain(
    layers: int = 6,
    *,
    layer_parameters: int = 100_000,
    edge_parameters: int = 50_000,
    output_bytes: float = 64_000.0,
    flops: float = 1e9,
    heads: int = 4,
    tied: bool = False,
) -> Workload:
    """An embedding, ``layers`` equal transformer blocks and a head."""

    def block(name: str, kind: str, parameters: int, work: float) -> Block:
        return Block(
            name=name,
            kind=kind,  # type: ignore[arg-type]
            parameters=parameters,
            tensors=4,
            inner=(Segment("work", work, 1e6),),
            activation_bytes={"none": 8e5, "selective": 4e5, "full": 1e5},
            output_bytes=output_bytes,
        )

    blocks = (
        block("embedding", "embedding", edge_parameters, flops / 100),
        *(block(f"layer.{i}", "transformer", layer_parameters, flops) for i in range(layers)),
        block("head", "head", edge_parameters + 64, flops / 2),
    )
    return Workload(
        name=f"chain-{layers}",
        family="chain",
        sequence=128,
        hidden=64,
        heads=heads,
        vocabulary=512,
        blocks=blocks,
        tied=(0, layers + 1) if tied else None,
        tied_parameters=40_000 if tied else 0,
    )


def site(
    *nodes: int,
    devices: int = 1,
    speeds: tuple[float, ...] = (),
    kind: str = "cpu-core",
    linked: bool = True,
    gbit_s: tuple[float, float, float] = (1.0, 0.6, 0.1),
) -> Site:
    """One cluster per entry of ``nodes``: InfiniBand, RoCE, InfiniBand, ... and Ethernet all over.

    ``gbit_s`` are the rates of InfiniBand, RoCE and Ethernet.
    """
    rates = dict(zip(("infiniband", "roce", "ethernet"), gbit_s, strict=True))
    clusters = []
    for index, count in enumerate(nodes):
        fast = "roce" if index % 2 else "infiniband"
        speed = speeds[index] if speeds else 1.0
        clusters.append(
            {
                "name": f"c{index}",
                "nodes": count,
                "device": {"kind": kind, "count": devices, "speed": speed},
                "nics": [
                    {"kind": fast, "gbit_s": rates[fast]},
                    {"kind": "ethernet", "gbit_s": rates["ethernet"]},
                ],
            }
        )
    links = [
        {"between": [f"c{a}", f"c{b}"], "kind": "ethernet", "gbit_s": rates["ethernet"]}
        for a in range(len(nodes))
        for b in range(a + 1, len(nodes))
        if linked
    ]
    return Site.model_validate({"name": "test", "clusters": clusters, "links": links})
