"""From a resolved job to a plan, and to the calibration a rehearsal plans with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from holmes.cost.calibration import DEFAULT, LAB, BlockTime, Calibration
from holmes.cost.links import LinkTiming
from holmes.errors import ConfigError
from holmes.hardware.site import Site
from holmes.hardware.topology import Topology
from holmes.job.resolve import ResolvedJob
from holmes.models.registry import describe, family_of
from holmes.plan.capabilities import Capabilities
from holmes.plan.plan import Plan
from holmes.planner.request import PlanRequest
from holmes.runtime.capabilities import CAPABILITIES
from holmes.schedule.instruction import Op
from holmes.train.board import check_board
from holmes.workload.workload import Workload

CPU_KIND = "cpu-core"
BLOCK_PARTS = ("forward", "backward", "input", "weight")


def on_cpu(resolved: ResolvedJob) -> bool:
    """Whether every device of the site is a CPU core."""
    return {slot.node.device.kind for slot in Topology(resolved.site).devices} == {CPU_KIND}


def runnable(resolved: ResolvedJob, *, on_gpu: bool) -> ResolvedJob:
    """The job with a precision that a run can have: ``auto`` is bf16 on GPUs, else fp32.

    Raises:
        ConfigError: the model is not one, or one that no run here can have.
        UnavailableError: the job wants what is not installed.
    """
    _check_blocks(workload_of(resolved), CAPABILITIES)
    check_board(resolved.job)
    train = resolved.job.train
    if train.precision != "auto":
        return resolved
    chosen = train.model_copy(update={"precision": "bf16" if on_gpu else "fp32"})
    return replace(resolved, job=resolved.job.model_copy(update={"train": chosen}))


def _check_blocks(workload: Workload, capabilities: Capabilities) -> None:
    """Refuse a model whose layers are beyond the runtime, before anything is started."""
    if workload.experts and not capabilities.experts:
        raise ConfigError(
            f"a model with {workload.experts} experts per layer can be planned, not trained",
            where="model",
            why="the runtime has no expert blocks",
            next_step="use `holmes plan`, or a model without experts",
        )


def workload_of(resolved: ResolvedJob) -> Workload:
    """What the job's model costs; ``precision: auto`` is mixed on GPU sites, fp32 on CPU.

    Raises:
        ConfigError: the model is not one.
    """
    module = describe(family_of(resolved.job.model))
    config = module.config_from(resolved.job.model)
    precision: str = resolved.job.train.precision
    if precision == "auto":
        precision = "fp32" if on_cpu(resolved) else "mixed"
    return module.workload(config, precision)


def check_fits(plan: Plan, resolved: ResolvedJob, *, where: str) -> None:
    """Refuse a plan that was made for another job; the number of steps may differ.

    Args:
        resolved: the job with the precision it runs in.

    Raises:
        ConfigError: naming what differs.
    """
    job, load = resolved.job, workload_of(resolved)
    devices = [_places(site) for site in (plan.site, resolved.site)]
    differences = [
        (plan.workload.name != load.name, f"model {plan.workload.name}, the job's is {load.name}"),
        (
            plan.batch.global_ != job.batch.global_,
            f"a global batch of {plan.batch.global_}, the job's is {job.batch.global_}",
        ),
        (
            devices[0] != devices[1],
            f"the {len(devices[0])} devices of site {plan.site.name}, the job's are the "
            f"{len(devices[1])} of {resolved.site.name}",
        ),
        (plan.workload != load, f"another precision or size of {load.name}"),
    ]
    found = next((text for differs, text in differences if differs), None)
    if found is not None:
        raise ConfigError(
            "the plan is not one of this job",
            where=where,
            why=f"it is for {found}",
            next_step="plan again with this job: `holmes plan JOB "
            f"train.precision={job.train.precision} -o {where}`",
        )


def check_wishes(plan: Plan, resolved: ResolvedJob, *, where: str) -> None:
    """Refuse what the command line asks of the layout and the given plan has otherwise.

    Raises:
        ConfigError: naming the key; a plan that is given is not changed.
    """
    choice = plan.schedule
    decided: dict[str, object] = {
        "tensor": _of_stages(plan, "tp"),
        "pipeline": plan.pp,
        "data": _of_stages(plan, "dp"),
        "context": _of_stages(plan, "cp"),
        "expert": _of_stages(plan, "ep"),
        "scatter_gather": plan.scatter_gather,
        "tensor_chunks": plan.tensor_chunks,
        "context_algorithm": plan.context_algorithm,
        "sharding": plan.sharding,
        "schedule": choice.name,
        "virtual_stages": choice.virtual_stages,
        "extra_warmup": choice.extra_warmup,
        "recompute": plan.recompute,
        "order": plan.order,
        "transport": plan.transport,
        "partition": plan.partition,
        "overlap": plan.overlap,
        "rank_map": plan.rank_map,
    }
    asked = {f"parallel.{key}": value for key, value in resolved.job.parallel.model_dump().items()}
    asked["placement"] = resolved.job.placement
    has: dict[str, object] = {f"parallel.{key}": value for key, value in decided.items()}
    has["placement"] = plan.placement_name
    for key, origin in resolved.origins.items():
        typed = origin == "override" or origin.startswith("--")
        if typed and asked.get(key) is not None and key in has and asked[key] != has[key]:
            raise ConfigError(
                f"`{key}` is {asked[key]}, but the plan that is used has {has[key]}",
                where=f"{key} ({origin}); {where}",
                why="a plan that is given, or that a run began with, is run as it is",
                next_step="leave the key out, or make another plan with `holmes plan -o` and "
                "give it with --plan",
            )


def _of_stages(plan: Plan, degree: str) -> int | tuple[int, ...]:
    """A degree as the job file gives it: one number, or one for each stage."""
    each = tuple(getattr(stage.layout, degree) for stage in plan.stages[: plan.pp])
    return each[0] if len(set(each)) == 1 else each


def refuse_virtual(resolved: ResolvedJob) -> None:
    """Refuse virtual devices where parameters matter.

    Raises:
        ConfigError: the job's devices are virtual.
    """
    if resolved.job.rehearsal.devices == "virtual":
        raise ConfigError(
            "virtual devices hold no parameters, so they neither train nor verify",
            where="rehearsal.devices",
            next_step="use `holmes rehearse`, or rehearsal.devices=real without forward_ms "
            "and backward_ms",
        )


def _places(site: Site) -> list[tuple[str, int]]:
    return [(slot.node.name, slot.local_index) for slot in Topology(site).devices]


def request_of(
    resolved: ResolvedJob,
    *,
    capabilities: Capabilities | None,
    calibration: Calibration | None = None,
    rates: Mapping[Any, float] | None = None,
) -> PlanRequest:
    """The question to the planner.

    Raises:
        ConfigError: the model is not one, or lies beyond the capabilities.
    """
    job, workload = resolved.job, workload_of(resolved)
    if capabilities is not None:
        _check_blocks(workload, capabilities)
    return PlanRequest(
        name=job.name,
        site=resolved.site,
        workload=workload,
        global_batch=job.batch.global_,
        micro_batch=job.batch.micro,
        wishes=job.wishes(),
        calibration=calibration or default_calibration(resolved),
        capabilities=capabilities,
        rates=rates,
        placement_name=job.placement or "planned",
    )


def default_calibration(resolved: ResolvedJob) -> Calibration:
    """Coefficients for gloo where CPU cores compute, else those of GPU sites."""
    return LAB if on_cpu(resolved) else DEFAULT


def virtual_calibration(resolved: ResolvedJob, micro: int) -> Calibration:
    """Block times as the job dictates them: transformer blocks only, the ends take none."""
    options = resolved.job.rehearsal
    assert options.forward_ms is not None and options.backward_ms is not None
    times = {
        "embedding": BlockTime(0.0, 0.0),
        "transformer": BlockTime(options.forward_ms / 1e3, options.backward_ms / 1e3),
        "head": BlockTime(0.0, 0.0),
    }
    return LAB.with_blocks(
        _for_every_kind(resolved, times),
        micro=micro,
        source="virtual devices: block times given by the job",
        optimizer_seconds_per_element=0.0,
    )


def measured_calibration(
    resolved: ResolvedJob,
    micro: int,
    profiles: Sequence[Mapping[str, Any]],
    cores: float,
    tensor: int = 1,
) -> Calibration:
    """Block times from what all ranks measured at once: the median, at relative speed 1.

    Args:
        profiles: one per device of the site, as the profile task returns them.
        cores: share of a core that a rank on the fastest device computes with.
        tensor: degree of the plan that was profiled.
    """
    fastest = max(slot.node.device.speed for slot in Topology(resolved.site).devices)

    def times(found: str, share: float) -> dict[str, BlockTime]:
        kinds = profiles[0].get(found, {})
        parts = {k: [[p[found][k][part] for p in profiles] for part in BLOCK_PARTS] for k in kinds}
        busy = {kind: [median(taken) for taken in parts[kind]] for kind in kinds}
        return {
            kind: BlockTime(forward, whole, weight, input_ + weight - whole).scaled(fastest / share)
            for kind, (forward, whole, input_, weight) in busy.items()
        }

    drags = [p["drag"] for p in profiles if p["drag"] is not None]
    calibration = LAB.with_blocks(
        _for_every_kind(resolved, times("blocks", cores)),
        micro=micro,
        source=f"blocks measured on {len(profiles)} ranks at once",
        optimizer_seconds_per_element=median(p["optimizer"] for p in profiles) / cores * fastest,
    )
    split = _for_every_kind(resolved, times("split_blocks", 1.0))
    return replace(
        calibration,
        split_blocks={tensor: split} if tensor > 1 else {},
        drag_seconds_per_byte=median(drags) / cores if drags else 0.0,
    )


def link_timings(profiles: Sequence[Mapping[str, Any]]) -> list[LinkTiming]:
    """The timings of all ranks; a member that came early waited, so the median of a group."""
    seconds: dict[tuple[str, str, int], list[float]] = {}
    for profile in profiles:
        for timing in profile["links"]:
            key = (timing["group"], timing["op"], timing["bytes_"])
            seconds.setdefault(key, []).append(timing["seconds"])
    return [LinkTiming(g, Op(op), size, median(found)) for (g, op, size), found in seconds.items()]


def _for_every_kind(
    resolved: ResolvedJob, times: Mapping[str, BlockTime]
) -> dict[str, Mapping[str, BlockTime]]:
    """A rehearsal's ranks are alike, whatever device kinds they stand for."""
    return {slot.node.device.kind: times for slot in Topology(resolved.site).devices}
