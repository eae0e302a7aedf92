"""Records of the parallel axes, of peers and of flows over several paths, for the reader."""

from __future__ import annotations

import statistics

from figures import itself, moved, ms, quartiles, rates, ratio, seconds
from rendered import REAL, VIRTUAL, Data, Rendered


def peers(data: Data) -> Rendered:
    """Ours over PyTorch's own: processor seconds and wall time."""
    rows = [
        (
            case["on"],
            case["ours"],
            case["peer"],
            quartiles(case["busy_over_peer"]),
            quartiles(case["wall_over_peer"]),
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
            f"Step of ours against itself, by case: {itself(data)}.",
        ),
    )


def meshes(data: Data) -> Rendered:
    """Step with a host idle, a stage on every host, and stages of their own degrees."""
    rows = [
        (
            name,
            " + ".join(str(stop - start) for start, stop in arm["blocks"]),
            seconds(arm),
            ms(arm["predicted"]),
        )
        for name, arm in data["arms"].items()
        if not name.endswith(" again")
    ]
    return Rendered(
        VIRTUAL,
        ("plan", "blocks per stage", "step, measured", "step, predicted"),
        tuple(rows),
        f"Three hosts and two, all used, are {ratio(data['gain'])} times faster than the best "
        f"plan of equal stages, which idles one, and {ratio(data['over_five_stages'])} times "
        "faster than a stage on every host.",
        (
            f"Sizes: {data['sizes']}.",
            f"A host idle over all used, per round: {quartiles(data['gain'])}; against itself: "
            f"{itself(data)}.",
        ),
    )


def tensor_chunks(data: Data) -> Rendered:
    """Step by chunks of tensor collectives, and how much of these ran beside products."""
    rows = [
        (
            name,
            seconds(data["arms"][name]),
            ms(data["arms"][name]["predicted"]),
            f"{statistics.median(data['arms'][name]['beside']):.0%}",
            ratio(gain),
        )
        for name, gain in data["gains"].items()
    ]
    return Rendered(
        REAL,
        ("chunks", "step, measured", "step, predicted", "beside products", "1 chunk over it"),
        tuple(rows),
        f"Two chunks: {quartiles(data['headline'])} times as fast as one, whose collectives and "
        "products take turns.",
        (
            f"Sizes: {data['sizes']}.",
            "Beside products: of the time of collectives in chunks, by the trace.",
            f"One chunk against itself: {itself(data)}.",
        ),
    )


def scatter_gather(data: Data) -> Rendered:
    """Step and bytes between nodes with tensor ranks that pass on their own tokens, or all."""
    rows = [
        (
            name,
            seconds(data["arms"][name]),
            ms(data["arms"][name]["predicted"]),
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
        f"nodes; the step is {ratio(data['gain'])} times faster.",
        (
            f"Sizes: {data['sizes']}; one slow link between the nodes.",
            f"Off over on, per round: {quartiles(data['gain'])}; against itself: {itself(data)}.",
        ),
    )


def three_level(data: Data) -> Rendered:
    """Step, bytes on the slow network and memory of one, two and three levels of sharding."""
    rows = [
        (
            case,
            name,
            seconds(arm),
            ms(arm["predicted"]),
            moved(arm["bytes_per_step"]["ethernet"]),
            f"{sum(arm['kept'][0].values()) / 1e6:.2f} MB",
            ratio(found["gains"][name]) if name in found["gains"] else "1.00",
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
        f"Where the link between the clusters is slow, one level takes {ratio(slow['one level'])} "
        f"times as long as three, two take {ratio(slow['two levels, of a host'])} (of a host) and "
        f"{ratio(slow['two levels, of a cluster'])} (of a cluster). Where all links are fast and "
        f"computation is long, {ratio(fast['one level'])}: three levels keep more for nothing.",
        (
            f"Sizes: {data['sizes']}; links {rates(data['rates_gbit_s'])}, in the other case "
            f"{data['fast_gbit_s']:g} for all. Packing into integers takes no time here.",
            f"Three levels against themselves, by case: {itself(data)}.",
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
            f"4 over 8 ranks, which hold half the tokens each: {quartiles(data['headline'])}.",
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
            seconds(arm),
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
        f"Ports drawn at random take {ratio(few)} times as long as planned ones with 4 flows, "
        f"{ratio(many)} times with 16.",
        (
            f"Sizes: {data['sizes']}.",
            *(
                f"A path {fault}, flows {arm}: {_ended(trials, data['limit_seconds'])}."
                for fault, arms in data["faults"].items()
                for arm, trials in arms.items()
            ),
            f"Planned against itself, by case: {itself(data)}.",
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
