"""Rich tables for the terminal, at most 100 columns wide.

Rich itself drops colour when the output is no terminal or NO_COLOR is set, and
falls back to ASCII lines when the encoding asks for it; the tables carry no
meaning in colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from holmes.plan import Plan
from holmes.report import units
from holmes.report.claim import claim
from holmes.report.parts.traffic import label_of

WIDTH = 100
MOST_GROUPS = 16
MOST_PARAMETERS = 10

_FABRIC_STYLE = {"infiniband": "blue", "roce": "yellow", "ethernet": "green"}


def show_plan(plan: Plan, *, explain: bool) -> None:
    """Print a plan and its groups on stdout, and the reasons when asked for."""
    console = Console()
    console.print(plan_table(plan))
    console.print(groups_table(plan))
    if explain:
        for line in plan.explain:
            console.print(Padding(Text(line), (0, 0, 0, 2)))


def show_verification(result: Mapping[str, Any]) -> None:
    """Print the outcome of `holmes verify` on stdout, the worst parameters first."""
    Console().print(verification_table(result))


def plan_table(plan: Plan) -> Table:
    """What was planned, and what it is predicted to do."""
    said, batch = plan.predicted, plan.batch
    full = max(said.memory_bytes.values(), default=0)
    degrees = "pipeline {pp}, data {dp}, tensor {tp}".format(**plan.degrees)
    degrees += f", context {plan.context}" if plan.context > 1 else ""
    degrees += f", expert {plan.expert}" if plan.expert > 1 else ""
    blocks = [str(stage.blocks[1] - stage.blocks[0]) for stage in plan.stages]
    extra = plan.schedule.extra_warmup_per_cut or (plan.schedule.extra_warmup,)
    warm = f", {max(extra)} extra warm-up" if max(extra, default=0) else ""
    overlap = "under backward" if plan.overlap else "after backward"
    rows = (
        ("model", f"{plan.workload.name}, {units.count(plan.workload.parameters)} parameters"),
        ("site", f"{plan.site.name}, {plan.world_size} devices"),
        ("layout", f"{degrees} ({plan.order} order)"),
        ("ranks on devices", _several([str(device) for device in plan.rank_map], 24)),
        ("blocks per stage", f"{_several(blocks, 24)} ({plan.partition})"),
        ("batch", f"{batch.global_}, {plan.schedule.microbatches} micro-batches of {batch.micro}"),
        ("schedule", f"{plan.schedule.name}{warm}, gradients reduced {overlap}"),
        ("predicted step", f"{units.seconds(said.step_seconds)} ({_range(said.low, said.high)})"),
        (
            "throughput",
            f"{said.samples_per_second:.4g} samples/s, {_tflops(said.tflops_per_device)}",
        ),
        ("pipeline idle", f"{100 * said.bubble_fraction:.0f} %"),
        ("fullest device", units.bytes_(full) if full else "not predicted"),
        ("calibration", said.source or "not named"),
    )
    table = _table(f"Plan: {plan.name}", ("", "planned"), show_header=False)
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def groups_table(plan: Plan) -> Table:
    """Every group with the network it uses, most bytes first."""
    table = _table("Groups", ("group", "ranks", "network", "interfaces"))
    table.add_column("bytes/step", justify="right", no_wrap=True)
    ordered = sorted(plan.groups, key=lambda group: -group.bytes_per_step)
    for group in ordered[:MOST_GROUPS]:
        kind = group.transport.name
        interfaces = sorted({name for names in group.interfaces.values() for name in names})
        table.add_row(
            Text(group.name),
            _several([str(rank) for rank in group.ranks], 8),
            Text(label_of(kind), style=_FABRIC_STYLE.get(kind, "")),
            Text(_several(interfaces, 4)),
            units.bytes_(group.bytes_per_step),
        )
    if len(ordered) > MOST_GROUPS:
        table.caption = f"and {len(ordered) - MOST_GROUPS} smaller groups"
    return table


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The end of a rehearsal, or of several that are compared.

    Args:
        summary: one rehearse object, or ``{name: rehearse object, ..., speedup}``.
    """
    runs = _runs(summary)
    table = _table("Rehearsal", ("",))
    for name in runs:
        table.add_column(Text(name), overflow="fold")
    kinds = sorted({kind for run in runs.values() for kind in _mapping(run, "bytes_per_step")})
    rows = [
        ("step, measured", [_measured(run) for run in runs.values()]),
        ("step, predicted", [_predicted(run) for run in runs.values()]),
        ("tokens per second", [_number(run, "tokens_per_second") for run in runs.values()]),
        ("loss, first to last", [_loss(run) for run in runs.values()]),
        *(
            (f"{label_of(kind)} per step", [_traffic(run, kind) for run in runs.values()])
            for kind in kinds
        ),
        ("links, devices", [_setting(run) for run in runs.values()]),
    ]
    for label, cells in rows:
        table.add_row(label, *(Text(cell) for cell in cells))
    ratio = summary.get("speedup")
    if isinstance(ratio, int | float) and len(runs) > 1:
        first, second = list(runs)[:2]
        table.caption = Text(f"{first} against {second}: {claim(ratio)}", style="bold")
        table.caption_justify = "left"
    return table


def verification_table(result: Mapping[str, Any]) -> Table:
    """Parameters after the distributed and the plain run: ``max|a-b| / max|a|`` per tensor."""
    worst = sorted(result["parameters"], key=lambda row: -row["max_relative_difference"])
    table = _table("Against the plain single-process run", ("parameter",))
    table.add_column("largest relative difference", justify="right", no_wrap=True)
    for row in worst[:MOST_PARAMETERS]:
        table.add_row(Text(str(row["name"])), f"{row['max_relative_difference']:.2e}")
    if len(worst) > MOST_PARAMETERS:
        table.add_row(f"and {len(worst) - MOST_PARAMETERS} more, none larger", "")
    equal = "bit-equal" if result["bit_equal"] else "not bit-equal"
    largest = f"largest difference {result['max_relative_difference']:.2e}, {equal}"
    if not result["bit_equal"]:
        largest += f"\nof gradients {result['max_gradient_difference']:.2e}"
    table.caption = Text(largest, style="bold")
    table.caption_justify = "left"
    return table


def _table(title: str, columns: Sequence[str], *, show_header: bool = True) -> Table:
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD if show_header else box.SIMPLE,
        show_header=show_header,
        pad_edge=False,
        min_width=40,
    )
    for name in columns:
        table.add_column(name, overflow="fold", max_width=WIDTH - 24)
    return table


def _runs(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    if "step_seconds" in summary:
        return {str(summary.get("placement") or summary.get("run") or "run"): summary}
    return {
        str(name): run
        for name, run in summary.items()
        if isinstance(run, Mapping) and "step_seconds" in run
    }


def _mapping(run: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = run.get(key)
    return value if isinstance(value, Mapping) else {}


def _measured(run: Mapping[str, Any]) -> str:
    times = _mapping(run, "step_seconds")
    if times.get("median") is None:
        return "not measured"
    text = units.seconds(times["median"])
    if times.get("q1") is not None and times.get("q3") is not None:
        text += f" ({_range(times['q1'], times['q3'])})"
    return text


def _predicted(run: Mapping[str, Any]) -> str:
    predicted = run.get("predicted_step_seconds")
    if predicted is None:
        return "not predicted"
    measured = _mapping(run, "step_seconds").get("median")
    off = f" ({units.percent(predicted / measured - 1)})" if measured else ""
    return f"{units.seconds(predicted)}{off}"


def _number(run: Mapping[str, Any], key: str) -> str:
    value = run.get(key)
    return f"{value:,.0f}" if isinstance(value, int | float) else "not measured"


def _loss(run: Mapping[str, Any]) -> str:
    loss = _mapping(run, "loss")
    if loss.get("first") is None or loss.get("last") is None:
        return "none: virtual devices" if run.get("devices") == "virtual" else "not measured"
    held = loss.get("validation")
    return f"{loss['first']:.3f} → {loss['last']:.3f}" + (
        f", held-out {held:.3f}" if held is not None else ""
    )


def _traffic(run: Mapping[str, Any], kind: str) -> str:
    sent = _mapping(_mapping(run, "bytes_per_step"), kind)
    measured, formula = sent.get("measured"), sent.get("predicted")
    if measured is None and formula is None:
        return "none"
    text = units.bytes_(measured) if measured is not None else "not counted"
    if formula is not None:
        off = f", {units.percent(measured / formula - 1)}" if measured and formula else ""
        text += f" (formula {units.bytes_(formula)}{off})"
    return text


def _setting(run: Mapping[str, Any]) -> str:
    return f"{run.get('links', 'not known')}, {run.get('devices', 'not known')}"


def _range(low: float, high: float) -> str:
    return f"{units.seconds(low)} to {units.seconds(high)}"


def _tflops(value: float) -> str:
    return f"{value:.3g} TFLOP/s a device"


def _several(values: Sequence[str], most: int) -> str:
    return ", ".join(values[:most]) + (" …" if len(values) > most else "")
