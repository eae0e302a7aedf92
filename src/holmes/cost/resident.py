"""Bytes of weights, gradients and optimiser states that a rank holds between two steps, exact."""

from __future__ import annotations

from holmes.plan.plan import Plan


def resident_bytes(plan: Plan, rank: int) -> dict[str, int]:
    """By kind of state, for a rank without tensor neighbours.

    Every bucket is padded until it divides over all replicas; a level of sharding keeps an
    equal part of it. Nothing is gathered and no gradient is on its way between steps.
    """
    load = plan.workload
    found = {"weights": 0, "gradients": 0, "states": 0}
    for stage in plan.stages:
        shards = stage.layout.shards(plan.sharding)
        alike = stage.layout.of_experts.shards(plan.sharding)
        for bucket in stage.buckets if rank in stage.ranks else ():
            for elements, over in ((bucket.elements, shards), (bucket.expert_elements, alike)):
                length = -(-elements // over.members) * over.members
                states = 1 if plan.sharding == "none" else over.states
                found["weights"] += length // over.weights * load.parameter_bytes
                found["gradients"] += length // over.gradients * load.gradient_bytes
                found["states"] += length // states * load.optimizer_bytes
    return found
