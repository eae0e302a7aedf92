"""Put the tables of the records into README: nobody types a number."""

from __future__ import annotations

from pathlib import Path
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


TABLES = {"demo": demo_table}


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
