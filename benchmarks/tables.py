"""Put the tables of the records into README: nobody types a number."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import record

README = Path(__file__).parent.parent / "README.md"


def demo_table(data: dict[str, Any]) -> str:
    """Measured and predicted step of each placement, and bytes against the formula."""
    lines = ["| | " + " | ".join(data["runs"]) + " |", "|---|" + "---|" * len(data["runs"])]
    runs = data["runs"].values()

    def row(label: str, cells: list[str]) -> None:
        lines.append(f"| {label} | " + " | ".join(cells) + " |")

    row("step, measured", [_spread(run["step_seconds"]) for run in runs])
    row("step, predicted", [f"{run['predicted_step_seconds'] * 1e3:.0f} ms" for run in runs])
    kinds = sorted({kind for run in runs for kind in run["bytes_per_step"]})
    for kind in kinds:
        row(f"{kind}, sent per step", [_bytes(run["bytes_per_step"].get(kind)) for run in runs])
    row("held-out loss", [f"{run['loss']['validation']:.3f}" for run in runs])
    m = data["machine"]
    lines.append(
        f"\nMeasured {data['date']} on {m['cpu']}, {m['cores']} cores: "
        f"{data['speedup']:.2f} times faster (medians of one run; quartiles in brackets)."
    )
    return "\n".join(lines)


def _spread(value: dict[str, float]) -> str:
    return f"{value['median'] * 1e3:.0f} ms ({value['q1'] * 1e3:.0f} to {value['q3'] * 1e3:.0f})"


def _bytes(value: dict[str, float] | None) -> str:
    if not value or not value["measured"]:
        return "none"
    off = value["measured"] / value["predicted"] - 1 if value["predicted"] else 0.0
    return f"{value['measured'] / 1e6:.1f} MB (formula {off:+.1%})"


def placement_table(data: dict[str, Any]) -> str:
    """Step of every arm, its gain over megatron, and what the simulator said before."""
    lines = [
        "| arm | step, measured | step, predicted | throughput over megatron |",
        "|---|---|---|---|",
    ]
    for name, arm in data["arms"].items():
        gain = data["gains"][name]["median"]
        lines.append(f"| {name} | {_spread(arm)} | {arm['predicted'] * 1e3:.0f} ms | {gain:.2f} |")
    alone = data["homogeneous_infiniband"]
    lines.append(
        f"| InfiniBand everywhere, with overlap | {_spread(alone)} | "
        f"{alone['predicted'] * 1e3:.0f} ms | - |"
    )
    rates = ", ".join(f"{kind} {rate:.2f}" for kind, rate in data["rates_gbit_s"].items())
    like = data["gains"]["holmes, both with overlap"]["median"]
    others = ", ".join(
        f"{_gain(arms):.2f} with {count} micro-batches"
        for count, arms in data["microbatches"].items()
    )
    pairs = data["gains"]["megatron"]["pairs"]
    lines.append(
        f"\nVirtual devices ({data['sizes']}), shaped links ({rates} Gbit/s), medians of "
        f"{pairs} alternated run(s) per arm, {data['date']}: only the network part is measured. "
        f"Both with overlap: {like:.2f}. Of the InfiniBand site: "
        f"{data['share_of_infiniband']:.0%}. Holmes over megatron is {others}: the more "
        "micro-batches, the less the placement matters."
    )
    return "\n".join(lines)


def _gain(arms: dict[str, Any]) -> float:
    slow, fast = (median(arm["seconds"]) for arm in arms.values())
    return slow / fast


TABLES = {"demo": demo_table, "placement_virtual": placement_table}


def main() -> None:
    """Rewrite every marked table whose record exists."""
    text = README.read_text()
    for name, render in TABLES.items():
        data = record.read(name)
        if data is not None:
            block = f"<!-- table:{name} -->\n{render(data)}\n<!-- end -->"
            before, _, rest = text.partition(f"<!-- table:{name} -->")
            text = before + block + rest.partition("<!-- end -->")[2]
    README.write_text(text)


if __name__ == "__main__":
    main()
