"""What differs between two plans, and what it is worth: one sentence first, then the reasons."""

from __future__ import annotations

from collections.abc import Iterable

from holmes.plan.explain import bytes_text, layout_text, seconds_text
from holmes.plan.plan import Plan

CLOSE = 1.01
"""Below this ratio two predictions are called equal."""


def diff(a: Plan, b: Plan) -> list[str]:
    """Compare plan ``a`` with plan ``b``.

    Returns:
        First "a is x times faster than b, because", then one line per difference.
    """
    reasons = [*_layout(a, b), *_placement(a, b), *_transports(a, b), *_work(a, b)]
    return [_headline(a, b, bool(reasons)), *reasons]


def _headline(a: Plan, b: Plan, differ: bool) -> str:
    fast, slow = a.predicted.step_seconds, b.predicted.step_seconds
    first, second = _names(a, b)
    times = f"{seconds_text(fast)} against {seconds_text(slow)} a step, predicted"
    if not differ:
        return f"{first} and {second} are the same plan ({times})"
    if max(fast, slow) < CLOSE * min(fast, slow):
        return f"{first} and {second} take the same time ({times}), although"
    if fast < slow:
        return f"{first} is {slow / fast:.2f} times faster than {second} ({times}), because"
    return f"{first} is {fast / slow:.2f} times slower than {second} ({times}), because"


def _names(a: Plan, b: Plan) -> tuple[str, str]:
    """What to call the two: their placement, unless that is the same."""
    if a.placement_name != b.placement_name:
        return a.placement_name, b.placement_name
    if a.name != b.name:
        return a.name, b.name
    return "the first", "the second"


def _layout(a: Plan, b: Plan) -> Iterable[str]:
    if a.site != b.site:
        yield f"the site is {a.site.name}, not {b.site.name}" + (
            "" if a.site.name != b.site.name else " (its figures differ)"
        )
    if a.workload != b.workload:
        yield f"the model is {a.workload.name}, not {b.workload.name}"
    if a.layout != b.layout:
        yield f"the layout is {layout_text(a)} instead of {layout_text(b)}"
    if a.batch != b.batch:
        yield (
            f"the batch is {a.batch.global_} in micro-batches of {a.batch.micro}, "
            f"instead of {b.batch.global_} in micro-batches of {b.batch.micro}"
        )


def _placement(a: Plan, b: Plan) -> Iterable[str]:
    if a.rank_map == b.rank_map:
        return
    whole_a, whole_b = _whole_stages(a), _whole_stages(b)
    line = f"ranks are placed in {a.order} order instead of {b.order} order"
    if whole_a != whole_b:
        line += (
            f": {whole_a} of {len(a.stages)} stages stay inside one cluster, "
            f"instead of {whole_b} of {len(b.stages)}"
        )
    yield line


def _whole_stages(plan: Plan) -> int:
    return sum("+" not in stage.cluster for stage in plan.stages)


def _transports(a: Plan, b: Plan) -> Iterable[str]:
    for name, group in a.group_by_name.items():
        other = b.group_by_name.get(name)
        if other is None or group.transport == other.transport or group.axis == "world":
            continue
        yield (
            f"{name} runs over {group.transport.name} instead of {other.transport.name} "
            f"({bytes_text(group.bytes_per_step)} a step)"
        )
    kinds = sorted(set(a.predicted.bytes_per_step) | set(b.predicted.bytes_per_step))
    for kind in kinds:
        mine, theirs = (plan.predicted.bytes_per_step.get(kind, 0) for plan in (a, b))
        if max(mine, theirs) > 1.05 * min(mine, theirs):
            yield f"{kind} carries {bytes_text(mine)} a step instead of {bytes_text(theirs)}"


def _work(a: Plan, b: Plan) -> Iterable[str]:
    cuts_a, cuts_b = ([stage.blocks for stage in plan.stages] for plan in (a, b))
    if cuts_a != cuts_b:
        sizes_a, sizes_b = (
            "/".join(str(stop - start) for start, stop in cuts) for cuts in (cuts_a, cuts_b)
        )
        yield (
            f"the stages hold {sizes_a} blocks ({a.partition}) instead of {sizes_b} ({b.partition})"
        )
    if a.overlap != b.overlap:
        yield (
            "gradient exchange runs under backward and the next forward instead of after them"
            if a.overlap
            else "gradient exchange runs after backward instead of under it"
        )
    if a.schedule.name != b.schedule.name:
        yield f"the schedule is {a.schedule.name} instead of {b.schedule.name}"
    extra_a, extra_b = (_extra(plan) for plan in (a, b))
    if extra_a != extra_b:
        yield f"{_forwards(extra_a)} the pipeline busy across slow cuts, instead of {extra_b}"
    if a.recompute != b.recompute:
        yield f"recomputation is {a.recompute} instead of {b.recompute}"


def _forwards(extra: int) -> str:
    return "1 extra warm-up forward keeps" if extra == 1 else f"{extra} extra warm-up forwards keep"


def _extra(plan: Plan) -> int:
    choice = plan.schedule
    return sum(choice.extra_warmup_per_cut) or choice.extra_warmup * (plan.pp - 1)
