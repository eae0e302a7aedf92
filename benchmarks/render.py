"""A record as a table with a sentence, and as the details that stand below it in the docs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

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
        ("step, measured", *(_seconds(arm) for arm in arms)),
        ("step, predicted", *(_ms(arm["predicted"]) for arm in arms)),
        ("idle while bytes move", *(f"{arm['network_share']['median']:.0%}" for arm in arms)),
        *(
            (f"{kind}, sent per step", *(_bytes(arm["bytes_per_step"].get(kind)) for arm in arms))
            for kind in kinds
        ),
        ("held-out loss", *(f"{arm['loss']['validation']:.3f}" for arm in arms)),
    ]
    return Rendered(
        REAL,
        ("", *shown),
        tuple(rows),
        f"Holmes is {_ratio(data['gain'])} times faster than megatron.",
        (
            f"Holmes over megatron, per round: {_quartiles(data['gain'])}; against itself: "
            f"{_itself(data)}.",
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
        (name, _seconds(arm), _ms(arm["predicted"]), f"{data['gains'][name]['median']:.2f}")
        for name, arm in data["arms"].items()
    ]
    best = data["homogeneous"]["infiniband, holmes"]
    rows.append(("InfiniBand everywhere, holmes", _seconds(best), _ms(best["predicted"]), "-"))
    throughput = data["throughput"]
    return Rendered(
        VIRTUAL,
        ("arm", "step, measured", "step, predicted", "throughput over megatron"),
        tuple(rows),
        f"Like for like, Holmes over megatron is {_ratio(data['both_with_overlap'])} (both with "
        f"overlap) and {_ratio(data['both_without_overlap'])} (both without). The hybrid site "
        f"reaches {data['share_of_infiniband']:.0%} of InfiniBand everywhere.",
        (
            f"Sizes: {data['sizes']}; links {_rates(data['rates_gbit_s'])}.",
            "Homogeneous sites without overlap, throughput measured (wanted): "
            + ", ".join(
                f"{kind} {value['measured']:.2f} ({value['wanted']:.2f})"
                for kind, value in throughput.items()
            )
            + ".",
            f"Like for like with overlap, per round: {_quartiles(data['both_with_overlap'])}; "
            f"without: {_quartiles(data['both_without_overlap'])}; against itself: "
            f"{_itself(data)}.",
            f"The lower bound for the cut and placement of holmes is "
            f"{_ms(data['arms']['+ overlap = holmes']['bound'])}: the measured step lies "
            f"{data['over_bound'] - 1:.1%} above it.",
        ),
    )


def losing(data: Data) -> Rendered:
    """Gain of Holmes where it is large, small, and none."""
    rows = []
    for case, found in data["cases"].items():
        slow, fast = found["arms"][found["baseline"]], found["arms"]["holmes"]
        same = _ratio(data["resolution"][case]) if case in data["resolution"] else "-"
        gain = f"{found['gain']['median']:.2f}"
        rows.append((case, found["baseline"], _seconds(slow), _seconds(fast), gain, same))
    many = data["cases"]["16 micro-batches"]["gain"]
    few = data["cases"]["4 micro-batches"]["gain"]
    even = [_ratio(data["cases"][case]["gain"]) for case in ("one cluster", "fast links")]
    return Rendered(
        VIRTUAL,
        ("case", "baseline", "baseline step", "holmes step", "gain", "holmes against itself"),
        tuple(rows),
        f"The more micro-batches, the less the placement matters ({_ratio(few)} with 4, "
        f"{_ratio(many)} with 16). On one cluster there is nothing to choose ({even[0]}), and "
        f"links that are fast enough make placements alike ({even[1]}).",
        (
            f"Sizes: {data['sizes']}, 8 micro-batches where nothing else is said; links "
            f"{_rates(data['rates_gbit_s'])}, in the last case {data['fast_gbit_s']:g} for all.",
        ),
    )


def partition(data: Data) -> Rendered:
    """Step and cut of every partition rule when one cluster runs at reduced speed."""
    rows = [
        (
            name,
            " + ".join(str(stop - start) for start, stop in arm["blocks"]),
            _seconds(arm),
            _ms(arm["predicted"]),
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
        f"the exact cut is {_ratio(data['gains']['exact'])} times faster than the even one.",
        (
            f"Sizes: {data['sizes']}. Slow devices are ranks that compute with a smaller share "
            "of a core.",
            f"Exact over even, per round: {_quartiles(data['gains']['exact'])}; against "
            f"itself: {_itself(data)}.",
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
                _ms(sorted(on["transfer"])[len(on["transfer"]) // 2]),
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
            f"Sizes: {data['sizes']}; links {_rates(data['rates_gbit_s'])}; from the spans of "
            "measured steps, mean over ranks.",
            f"Step with overlap against itself, by case: {_itself(data)}.",
        ),
    )


def prediction(data: Data) -> Rendered:
    """Predicted and measured step, and by how much they differ."""
    rows = [
        (
            site,
            name,
            _ms(arm["predicted"]),
            _seconds(arm),
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
            + "".join(f"; links {site}: {_rates(r)}" for site, r in data["rates_gbit_s"].items())
            + ". Block times are measured in the session before any plan is made; no step is.",
        ),
    )


def schedule_gains(data: Data) -> Rendered:
    """Steps of schedules, and 1F1B over each, for few and for many micro-batches."""
    rows = []
    for case, found in data["cases"].items():
        for name, arm in found["arms"].items():
            if name in found["gains"] or name == "1f1b":
                gain = _ratio(found["gains"][name]) if name in found["gains"] else "1.00"
                rows.append((case, name, _seconds(arm), _ms(arm["predicted"]), gain))
    few, *_, many = (case["gains"] for case in data["cases"].values())
    return Rendered(
        VIRTUAL,
        ("case", "schedule", "step, measured", "step, predicted", "1F1B over it"),
        tuple(rows),
        "1F1B takes "
        + " and ".join(f"{_ratio(few[name])} times {name}" for name in few)
        + " with few micro-batches, "
        + " and ".join(_ratio(many[name]) for name in many)
        + " with many.",
        (
            f"Sizes: {data['sizes']}.",
            f"1F1B against itself, by case: {_itself(data)}.",
        ),
    )


def peers(data: Data) -> Rendered:
    """Ours over PyTorch's own: processor seconds and wall time."""
    rows = [
        (
            case["on"],
            case["ours"],
            case["peer"],
            _quartiles(case["busy_over_peer"]),
            _quartiles(case["wall_over_peer"]),
        )
        for case in data["cases"]
    ]
    return Rendered(
        "Measured with real compute, not paced",
        ("site", "ours", "against", "processor seconds, ours over it", "step, ours over it"),
        tuple(rows),
        "Below 1 ours is cheaper, or faster.",
        (
            f"Sizes: {data['sizes']}. Processor seconds are per step and rank.",
            f"Step of ours against itself, by case: {_itself(data)}.",
        ),
    )


def meshes(data: Data) -> Rendered:
    """Step with a host idle, a stage on every host, and stages of their own degrees."""
    rows = [
        (
            name,
            " + ".join(str(stop - start) for start, stop in arm["blocks"]),
            _seconds(arm),
            _ms(arm["predicted"]),
        )
        for name, arm in data["arms"].items()
        if not name.endswith(" again")
    ]
    return Rendered(
        VIRTUAL,
        ("plan", "blocks per stage", "step, measured", "step, predicted"),
        tuple(rows),
        f"Three hosts and two, all used, are {_ratio(data['gain'])} times faster than the best "
        f"plan of equal stages, which idles one, and {_ratio(data['over_five_stages'])} times "
        "faster than a stage on every host.",
        (
            f"Sizes: {data['sizes']}.",
            f"A host idle over all used, per round: {_quartiles(data['gain'])}; against itself: "
            f"{_itself(data)}.",
        ),
    )


def tensor_chunks(data: Data) -> Rendered:
    """Step by chunks of tensor collectives, and how much of these ran beside products."""
    rows = [
        (
            name,
            _seconds(data["arms"][name]),
            _ms(data["arms"][name]["predicted"]),
            f"{statistics.median(data['arms'][name]['beside']):.0%}",
            _ratio(gain),
        )
        for name, gain in data["gains"].items()
    ]
    return Rendered(
        REAL,
        ("chunks", "step, measured", "step, predicted", "beside products", "1 chunk over it"),
        tuple(rows),
        f"Two chunks: {_quartiles(data['headline'])} times as fast as one, whose collectives and "
        "products take turns.",
        (
            f"Sizes: {data['sizes']}.",
            "Beside products: of the time of collectives in chunks, by the trace.",
            f"One chunk against itself: {_itself(data)}.",
        ),
    )


def scatter_gather(data: Data) -> Rendered:
    """Step and bytes between nodes with tensor ranks that pass on their own tokens, or all."""
    rows = [
        (
            name,
            _seconds(data["arms"][name]),
            _ms(data["arms"][name]["predicted"]),
            f"{data['bytes'][name]['measured'] / 1e6:.2f} MB",
            f"{data['bytes'][name]['predicted'] / 1e6:.2f} MB",
        )
        for name in ("off", "on")
    ]
    fewer = data["bytes"]["off"]["measured"] / data["bytes"]["on"]["measured"]
    return Rendered(
        VIRTUAL,
        ("scatter/gather", "step, measured", "step, predicted", "sent per step", "formula"),
        tuple(rows),
        f"With {data['tensor']} tensor ranks {fewer:.2f} times fewer bytes cross between the "
        f"nodes; the step is {_ratio(data['gain'])} times faster.",
        (
            f"Sizes: {data['sizes']}; one slow link between the nodes.",
            f"Off over on, per round: {_quartiles(data['gain'])}; against itself: {_itself(data)}.",
        ),
    )


def three_level(data: Data) -> Rendered:
    """Step, bytes on the slow network and memory of one, two and three levels of sharding."""
    rows = [
        (
            case,
            name,
            _seconds(arm),
            _ms(arm["predicted"]),
            _bytes(arm["bytes_per_step"]["ethernet"]),
            f"{sum(arm['kept'][0].values()) / 1e6:.2f} MB",
            _ratio(found["gains"][name]) if name in found["gains"] else "1.00",
        )
        for case, found in data["cases"].items()
        for name, arm in found["arms"].items()
        if not name.endswith(" again")
    ]
    slow, fast = (found["gains"] for found in data["cases"].values())
    header = ("links", "sharding", "step, measured", "step, predicted", "Ethernet, sent per step")
    return Rendered(
        VIRTUAL,
        (*header, "kept by a rank", "step over three levels"),
        tuple(rows),
        f"Where the link between the clusters is slow, one level takes {_ratio(slow['one level'])} "
        f"times as long as three, two take {_ratio(slow['two levels, of a host'])} (of a host) and "
        f"{_ratio(slow['two levels, of a cluster'])} (of a cluster). Where all links are fast and "
        f"computation is long, {_ratio(fast['one level'])}: three levels keep more for nothing.",
        (
            f"Sizes: {data['sizes']}; links {_rates(data['rates_gbit_s'])}, in the other case "
            f"{data['fast_gbit_s']:g} for all. Packing into integers takes no time here.",
            f"Three levels against themselves, by case: {_itself(data)}.",
        ),
    )


def context(data: Data) -> Rendered:
    """Peak of one rank by the number of ranks that share a sample, and who passes the limit."""
    peaks = {ranks: value["median"] for ranks, value in data["peaks"].items()}
    fixed = data["fixed_bytes"]
    rows = [
        (f"ring, {ranks} rank{'s' * (ranks != '1')}", f"{peak / 2**20:.0f} MiB",
         f"{peaks['1'] / peak:.2f}", f"{(peak - fixed) / 2**20:.0f} MiB",
         f"{(peaks['1'] - fixed) / (peak - fixed):.2f}")
        for ranks, peak in peaks.items()
    ]  # fmt: skip
    sizes, ring = data["sizes"], data["limited"]["ring"]
    return Rendered(
        REAL,
        ("attention", "peak of a rank", "1 rank over it", "of it, by tokens", "1 rank over it"),
        tuple(rows),
        f"Under {data['limit_bytes'] / 2**20:.0f} MiB a process ({data['limit']}) a sample of "
        f"{sizes['long']} tokens ends attention with whole scores; the ring over "
        f"{ring['ranks']} ranks passes.",
        (
            f"Forward and backward, fp32, {sizes['length']} tokens, one head of "
            f"{sizes['features']}. A ring also holds what is under way: nothing "
            "with one rank, less with two than with more.",
            f"4 over 8 ranks, which hold half the tokens each: {_quartiles(data['headline'])}.",
            f"{fixed / 2**20:.1f} MiB do not fall with the tokens (from 4 and 8 ranks): tiles of "
            f"scores, weights and their gradients, {data['tile_bytes'] / 2**20:.0f} MiB each, "
            "however long the sample.",
        ),
    )


def paths(data: Data) -> Rendered:
    """Flows on colliding, hashed and planned ports; what a path that fails costs."""
    rows = [
        (
            case,
            name,
            _seconds(arm),
            " + ".join(f"{sent / 1e6:.1f}" for sent in arm["bytes"][-1].values()) + " MB",
            f"{found['gains'][name]['median']:.2f}" if name in found["gains"] else "1.00",
        )
        for case, found in data["cases"].items()
        for name, arm in found["arms"].items()
        if not name.endswith(" again")
    ]
    few, many = (found["gains"]["hashed"] for found in data["cases"].values())
    return Rendered(
        "Measured with plain TCP flows over shaped links, no training",
        ("flows", "ports", "time", "sent by path, last round", "over planned"),
        tuple(rows),
        f"Ports drawn at random take {_ratio(few)} times as long as planned ones with 4 flows, "
        f"{_ratio(many)} times with 16.",
        (
            f"Sizes: {data['sizes']}.",
            *(
                f"A path {fault}, flows {arm}: {_ended(trials, data['limit_seconds'])}."
                for fault, arms in data["faults"].items()
                for arm, trials in arms.items()
            ),
            f"Planned against itself, by case: {_itself(data)}.",
        ),
    )


def _ended(trials: list[Data], limit: float) -> str:
    took = sorted(trial["took"] for trial in trials if trial["took"] is not None)
    text = f"{len(took)} of {len(trials)} transfers ended within {limit:g} s"
    if not took:
        return text
    noticed = [trial["noticed"] for trial in trials if trial["noticed"] is not None]
    seen = f", first noticed after at most {max(noticed):.2f} s" if noticed else ""
    return f"{text}, in {took[0]:.2f} to {took[-1]:.2f} s{seen}"


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
}


def _doubt(data: Data) -> str:
    if data["verdict"] == "measured":
        return ""
    if "resolution" in data:
        return f", inconclusive because an arm differed from itself ({_itself(data)})"
    return f", inconclusive because the machine's speed moved ({_drift(data)})"


def _itself(data: Data) -> str:
    """Ratios of the arms that ran against themselves."""
    return ", ".join(f"{name} {_quartiles(value)}" for name, value in data["resolution"].items())


def _drift(data: Data) -> str:
    return ", ".join(f"{probe} {value:+.0%}" for probe, value in data["drift"].items())


def _provenance(data: Data) -> tuple[str, ...]:
    machine = data["machine"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, kernel "
        f"{machine['kernel']}, Python {machine['python']}; commit {data['commit']}.",
        f"Speed of the machine after against before, seconds of a probe: {_drift(data)}. "
        f"Record: `benchmarks/records/{data['name']}.json`.",
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"


def _seconds(value: Data) -> str:
    return f"{_ms(value['median'])} ({value['q1'] * 1e3:.0f} to {value['q3'] * 1e3:.0f})"


def _ratio(value: Data) -> str:
    return f"{value['median']:.2f}"


def _quartiles(value: Data) -> str:
    return f"{value['median']:.3f} ({value['q1']:.3f} to {value['q3']:.3f}, {value['pairs']} pairs)"


def _rates(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {rate:.2f}" for kind, rate in rates.items()) + " Gbit/s"


def _bytes(value: Mapping[str, float] | None) -> str:
    if not value or not value["measured"]:
        return "none"
    off = value["measured"] / value["predicted"] - 1 if value["predicted"] else 0.0
    return f"{value['measured'] / 1e6:.1f} MB (formula {off:+.1%})"
