"""A record as a table with a sentence, and as the details that stand below it in the docs."""

from __future__ import annotations

from collections.abc import Callable

from figures import drift, itself, moved, ms, quartiles, rates, ratio, seconds
from render_axes import context, meshes, paths, peers, scatter_gather, tensor_chunks, three_level
from rendered import PREDICTED, REAL, VIRTUAL, Data, Rendered


def compact(data: Data) -> str:
    """The table of a record and what it says, for README."""
    found = RENDERERS[data["name"]](data)
    return f"{found.table()}\n\n{found.kind}, {data['date']}{_doubt(data)}. {found.claim}"


def full(data: Data) -> str:
    """The same with all details, for the docs."""
    found = RENDERERS[data["name"]](data)
    lines = [compact(data), ""]
    lines += [f"- {detail}" for detail in (*found.details, *_provenance(data))]
    return "\n".join(lines)


def demo(data: Data) -> Rendered:
    """Measured and predicted step of each placement, bytes against the formula, loss."""
    shown = {name: data["arms"][name] for name in ("holmes", "megatron")}
    kinds = sorted({kind for arm in shown.values() for kind in arm["bytes_per_step"]})
    arms = list(shown.values())
    rows = [
        ("step, measured", *(seconds(arm) for arm in arms)),
        ("step, predicted", *(ms(arm["predicted"]) for arm in arms)),
        ("idle while bytes move", *(f"{arm['network_share']['median']:.0%}" for arm in arms)),
        *(
            (f"{kind}, sent per step", *(moved(arm["bytes_per_step"].get(kind)) for arm in arms))
            for kind in kinds
        ),
        ("held-out loss", *(f"{arm['loss']['validation']:.3f}" for arm in arms)),
    ]
    return Rendered(
        REAL,
        ("", *shown),
        tuple(rows),
        f"Holmes is {ratio(data['gain'])} times faster than megatron.",
        (
            f"Holmes over megatron, per round: {quartiles(data['gain'])}; against itself: "
            f"{itself(data)}.",
            "Idle while bytes move: mean over ranks of the time in which a rank computes nothing "
            "and its own network moves bytes; waiting for transfers between others comes on top. "
            "With links that take no time the predicted step is shorter by "
            + " and ".join(
                f"{arm['network_share_predicted']:.0%} ({name})" for name, arm in shown.items()
            )
            + ".",
        ),
    )


def placement_virtual(data: Data) -> Rendered:
    """Step of every arm, its gain over megatron, and what the simulator said before."""
    rows = [
        (name, seconds(arm), ms(arm["predicted"]), f"{data['gains'][name]['median']:.2f}")
        for name, arm in data["arms"].items()
    ]
    best = data["homogeneous"]["infiniband, holmes"]
    rows.append(("InfiniBand everywhere, holmes", seconds(best), ms(best["predicted"]), "-"))
    throughput = data["throughput"]
    return Rendered(
        VIRTUAL,
        ("arm", "step, measured", "step, predicted", "throughput over megatron"),
        tuple(rows),
        f"Like for like, Holmes over megatron is {ratio(data['both_with_overlap'])} (both with "
        f"overlap) and {ratio(data['both_without_overlap'])} (both without). The hybrid site "
        f"reaches {data['share_of_infiniband']:.0%} of InfiniBand everywhere.",
        (
            f"Sizes: {data['sizes']}; links {rates(data['rates_gbit_s'])}.",
            "Homogeneous sites without overlap, throughput measured (wanted): "
            + ", ".join(
                f"{kind} {value['measured']:.2f} ({value['wanted']:.2f})"
                for kind, value in throughput.items()
            )
            + ".",
            f"Like for like with overlap, per round: {quartiles(data['both_with_overlap'])}; "
            f"without: {quartiles(data['both_without_overlap'])}; against itself: "
            f"{itself(data)}.",
            f"The lower bound for the cut and placement of holmes is "
            f"{ms(data['arms']['+ overlap = holmes']['bound'])}: the measured step lies "
            f"{data['over_bound'] - 1:.1%} above it.",
        ),
    )


def losing(data: Data) -> Rendered:
    """Gain of Holmes where it is large, small, and none."""
    rows = []
    for case, found in data["cases"].items():
        slow, fast = found["arms"][found["baseline"]], found["arms"]["holmes"]
        same = ratio(data["resolution"][case]) if case in data["resolution"] else "-"
        gain = f"{found['gain']['median']:.2f}"
        rows.append((case, found["baseline"], seconds(slow), seconds(fast), gain, same))
    many = data["cases"]["16 micro-batches"]["gain"]
    few = data["cases"]["4 micro-batches"]["gain"]
    even = [ratio(data["cases"][case]["gain"]) for case in ("one cluster", "fast links")]
    return Rendered(
        VIRTUAL,
        ("case", "baseline", "baseline step", "holmes step", "gain", "holmes against itself"),
        tuple(rows),
        f"The more micro-batches, the less the placement matters ({ratio(few)} with 4, "
        f"{ratio(many)} with 16). On one cluster there is nothing to choose ({even[0]}), and "
        f"links that are fast enough make placements alike ({even[1]}).",
        (
            f"Sizes: {data['sizes']}, 8 micro-batches where nothing else is said; links "
            f"{rates(data['rates_gbit_s'])}, in the last case {data['fast_gbit_s']:g} for all.",
        ),
    )


def partition(data: Data) -> Rendered:
    """Step and cut of every partition rule when one cluster runs at reduced speed."""
    rows = [
        (
            name,
            " + ".join(str(stop - start) for start, stop in arm["blocks"]),
            seconds(arm),
            ms(arm["predicted"]),
            f"{data['gains'][name]['median']:.2f}",
        )
        for name, arm in data["arms"].items()
        if name in data["gains"]
    ]
    return Rendered(
        REAL,
        ("partition", "blocks per stage", "step, measured", "step, predicted", "over even"),
        tuple(rows),
        f"The second cluster's devices run at {data['slow_speed']:g} of the speed of the first's; "
        f"the exact cut is {ratio(data['gains']['exact'])} times faster than the even one.",
        (
            f"Sizes: {data['sizes']}. Slow devices are ranks that compute with a smaller share "
            "of a core.",
            f"Exact over even, per round: {quartiles(data['gains']['exact'])}; against "
            f"itself: {itself(data)}.",
        ),
    )


def overlap(data: Data) -> Rendered:
    """Exposed part of the sharded optimiser's traffic."""
    rows = []
    for case, found in data["cases"].items():
        off, on = found["arms"]["no overlap"], found["arms"]["overlap"]
        rows.append(
            (
                f"{case} ({found['backward_ms']:g} ms a block)",
                ms(sorted(on["transfer"])[len(on["transfer"]) // 2]),
                f"{off['exposed_share']['median']:.0%}",
                f"{on['exposed_share']['median']:.0%}",
                f"{found['gain']['median']:.2f}",
            )
        )
    cases = data["cases"]
    shares = {c: f["arms"]["overlap"]["exposed_share"]["median"] for c, f in cases.items()}
    return Rendered(
        VIRTUAL,
        ("case", "traffic", "exposed, no overlap", "exposed, overlap", "step, off over on"),
        tuple(rows),
        f"With a long backward {shares['long backward']:.0%} of the optimiser's traffic stays "
        f"exposed (the first gathering and the last reduction have nothing to hide under); with "
        f"a short one {shares['short backward']:.0%}.",
        (
            f"Sizes: {data['sizes']}; links {rates(data['rates_gbit_s'])}; from the spans of "
            "measured steps, mean over ranks.",
            f"Step with overlap against itself, by case: {itself(data)}.",
        ),
    )


def prediction(data: Data) -> Rendered:
    """Predicted and measured step, and by how much they differ."""
    rows = [
        (
            site,
            name,
            ms(arm["predicted"]),
            seconds(arm),
            f"{arm['error']:+.0%}",
            "yes" if found["verdict"] == "measured" else "no",
        )
        for site, found in data["sites"].items()
        for name, arm in found["arms"].items()
    ]
    return Rendered(
        PREDICTED,
        ("site", "placement", "predicted", "measured", "error", "machine steady"),
        tuple(rows),
        f"{data['within_limit']} of {data['compared']} predictions lie within "
        f"{data['limit']:.0%}; the worst is off by {data['worst']:.0%}.",
        (
            f"Sizes: {data['sizes']}"
            + "".join(f"; links {site}: {rates(r)}" for site, r in data["rates_gbit_s"].items())
            + ". Block times are measured in the session before any plan is made; no step is.",
        ),
    )


def schedule_gains(data: Data) -> Rendered:
    """Steps of schedules, and 1F1B over each, for few and for many micro-batches."""
    rows = []
    for case, found in data["cases"].items():
        for name, arm in found["arms"].items():
            if name in found["gains"] or name == "1f1b":
                gain = ratio(found["gains"][name]) if name in found["gains"] else "1.00"
                rows.append((case, name, seconds(arm), ms(arm["predicted"]), gain))
    few, *_, many = (case["gains"] for case in data["cases"].values())
    return Rendered(
        VIRTUAL,
        ("case", "schedule", "step, measured", "step, predicted", "1F1B over it"),
        tuple(rows),
        "1F1B takes "
        + " and ".join(f"{ratio(few[name])} times {name}" for name in few)
        + " with few micro-batches, "
        + " and ".join(ratio(many[name]) for name in many)
        + " with many.",
        (
            f"Sizes: {data['sizes']}.",
            f"1F1B against itself, by case: {itself(data)}.",
        ),
    )


def weights(data: Data) -> Rendered:
    """Memory of ranks that read their parts of a model, and of ranks that load all of it."""
    kinds = {
        "reading": "peak while reading",
        "reading_with_all": "the same with torch and all else counted, shared pages in parts",
        "start": "peak of the whole start, above what training keeps",
    }
    rows = [
        (told, *(f"{data['worst'][arm][kind] / 1e6:.0f} MB" for arm in ("slices", "whole")))
        for kind, told in kinds.items()
    ]
    shares = [rank["parameters"] / 1e6 for rank in data["ranks"]["slices"]]
    return Rendered(
        "Measured, the worst of the ranks",
        ("above a rank's share", "each its slices", "all tensors first"),
        tuple(rows),
        f"A model of {data['model_bytes'] / 1e9:.1f} GB on {len(shares)} ranks: each holds "
        f"{max(shares):.0f} MB of parameters, and reading takes at most "
        f"{data['worst']['slices']['reading'] / 1e6:.0f} MB more.",
        (f"Sizes: {data['sizes']}.",),
    )


RENDERERS: dict[str, Callable[[Data], Rendered]] = {
    "demo": demo,
    "placement_virtual": placement_virtual,
    "losing": losing,
    "partition": partition,
    "meshes": meshes,
    "scatter_gather": scatter_gather,
    "three_level": three_level,
    "tensor_chunks": tensor_chunks,
    "overlap": overlap,
    "prediction": prediction,
    "rehearsals": prediction,
    "schedule_gains": schedule_gains,
    "peers": peers,
    "context": context,
    "paths": paths,
    "weights": weights,
}


def _doubt(data: Data) -> str:
    if data["verdict"] == "measured":
        return ""
    if "resolution" in data:
        return f", inconclusive because an arm differed from itself ({itself(data)})"
    return f", inconclusive because the machine's speed moved ({drift(data)})"


def _provenance(data: Data) -> tuple[str, ...]:
    machine = data["machine"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, kernel "
        f"{machine['kernel']}, Python {machine['python']}; commit {data['commit']}.",
        f"Speed of the machine after against before, seconds of a probe: {drift(data)}. "
        f"Record: `benchmarks/records/{data['name']}.json`.",
    )
