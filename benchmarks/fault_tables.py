"""Put the tables of faults, recovery, soaks and watching into the docs: nobody types a number."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import record
import shares

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "docs" / "reliability.md", ROOT / "docs" / "recovery.md")
MARKED = re.compile(r"<!-- faults:(\w+) -->\n.*?<!-- end -->", re.DOTALL)
UNKNOWN = "Not measured yet."
Data = Mapping[str, Any]


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def provenance(data: Data) -> str:
    """When, where and from what."""
    machine = data["machine"]
    return (
        f"{data['date']}, {machine['cpu']}, {machine['cores']} cores, commit {data['commit']}; "
        f"`benchmarks/records/{data['name']}.json`."
    )


def faults() -> str:
    """Class and victim by kind of fault, with both baselines."""
    data = record.read("reliability")
    if data is None:
        return UNKNOWN
    other = record.read("baselines") or {"torchrun": {}, "torchft": {}}
    rows = []
    for kind, found in data["kinds"].items():
        plain, ft = other["torchrun"].get(kind), other["torchft"].get(kind)
        rows.append(
            (
                f"`{kind}`",
                shares.text(found["right"]),
                _seconds(found["seconds"]),
                "-" if plain is None else shares.text(plain["right"]),
                "-" if plain is None else _noticed(plain),
                "-" if ft is None else _noticed(ft),
            )
        )
    header = ("fault", "class and victim right", "noticed after: median, worst")
    theirs = ("torchrun: class and first blamed right", "torchrun: said anything after")
    text = table((*header, *theirs, "torchft: went on after"), rows)
    limit = other.get("timeout_seconds")
    baseline = f" Groups of the baselines time out after {limit} s." if limit else ""
    return (
        f"{text}\n\n{data['right']} of {data['trials']} trials right; without a fault "
        f"{shares.text(data['false_alarms'])} false alarms. Shares with their 95 % interval "
        f"(Wilson). {data['sizes']}.{baseline} {provenance(data)}"
    )


def confusion() -> str:
    """What was injected against what was said."""
    data = record.read("reliability")
    if data is None:
        return UNKNOWN
    classes = list(dict.fromkeys(cls for said in data["confusion"].values() for cls in said))
    rows = [
        (f"`{kind}`", *(str(said.get(cls, "")) for cls in classes))
        for kind, said in data["confusion"].items()
    ]
    return table(("injected", *classes), rows)


def soak() -> str:
    """Minutes without a fault."""
    data = record.read("soak")
    if data is None:
        return UNKNOWN
    rows = [
        (
            part,
            f"{found['minutes']:.1f}",
            str(found["steps"]),
            shares.text(found["alarms"]),
        )
        for part, found in data["parts"].items()
    ]
    text = table(("neighbour", "minutes", "steps", "runs with a false alarm"), rows)
    return f"{text}\n\n{data['sizes']}. {provenance(data)}"


def recovery() -> str:
    """Kills at every phase, and the parts of a restart."""
    data = record.read("recovery")
    if data is None:
        return UNKNOWN
    heats = [heat for heat in data["limits"] if heat in data]
    parts = dict.fromkeys(part for heat in heats for part in data[heat]["parts"])
    rows = [
        (
            "in all: median, worst",
            *(
                f"{_seconds(data[heat]['total'])} (limit {data['limits'][heat]:g}), "
                f"{data[heat]['total']['trials']} trials"
                for heat in heats
            ),
        ),
        *((part, *(_part(data[heat]["parts"].get(part)) for heat in heats)) for part in parts),
    ]
    frozen, plain = data.get("frozen"), data["torchrun"]
    stopped = (
        ""
        if frozen is None
        else f" Stopped (SIGSTOP) at each phase instead: {shares.text(frozen['whole'])} went on "
        f"so, {shares.text(frozen['victim_named'])} named, noticed after "
        f"{_seconds(frozen['detect']) if frozen['detect'] else 'no time that was seen'}."
    )
    against = (
        ""
        if plain is None
        else f" Plain torchrun needs {_seconds(plain)} from the kill on ({plain['trials']} trials)."
    )
    return (
        f"{table(('seconds to the first new step', *heats), rows)}\n\nWent on with the same "
        f"parameters bit by bit and no sample lost or repeated: {shares.text(data['whole'])}; "
        f"the victim named: {shares.text(data['victim_named'])}.{stopped}{against} "
        f"{data['sizes']}. "
        f"{provenance(data)}"
    )


def watching() -> str:
    """What it costs."""
    data = record.read("watching")
    if data is None:
        return UNKNOWN
    ratio, itself = data["watched_over_not"], data["resolution"]["watched"]
    rows = [
        (case, f"{share['median']:.2%}", f"{share['worst']:.2%}")
        for case, share in data["shares"].items()
    ]
    text = table(("step", "watching, of its processor seconds", "worst run"), rows)
    most = sorted(data["parts"].items(), key=lambda part: -part[1])[:3]
    return (
        f"{text}\n\nLimit {data['limit']:.0%}. With more tokens, the largest parts: "
        + ", ".join(f"`{name}` {share:.2%}" for name, share in most)
        + f". Runs watched over runs not watched: {ratio['median']:.3f} ({ratio['q1']:.3f} to "
        f"{ratio['q3']:.3f}, {ratio['pairs']} pairs); watched over itself: "
        f"{itself['median']:.3f} ({itself['q1']:.3f} to {itself['q3']:.3f}). {data['sizes']}. "
        f"{provenance(data)}"
    )


def hostile() -> str:
    """Files and processes that mean no good."""
    data = record.read("hostile")
    if data is None:
        return UNKNOWN
    rows = [
        ("mutated configurations: right exit code, a hint, no traceback", "configurations"),
        ("kinds of broken data: exit code 65, place and reason, no hang", "data"),
        ("zombies that committed", "zombies_that_commit"),
    ]
    text = table(("tried", "of so many"), [(row, shares.text(data[key])) for row, key in rows])
    return (
        f"{text}\n\nHangs: {data['hangs']}. {data['accepted']} of the configurations were still "
        f"good ones; the slowest answer took {data['slowest_seconds']:.2f} s. {provenance(data)}"
    )


TABLES: dict[str, Callable[[], str]] = {
    "faults": faults,
    "confusion": confusion,
    "soak": soak,
    "recovery": recovery,
    "watching": watching,
    "hostile": hostile,
}


def filled(text: str) -> str:
    """A page with every marked table made anew."""
    return MARKED.sub(
        lambda match: f"<!-- faults:{match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->", text
    )


def _part(value: Data | None) -> str:
    return "-" if value is None else f"{value['median']:.2f}"


def _seconds(value: Data | None) -> str:
    return "-" if value is None else f"{value['median']:.2f}, {value['worst']:.2f} s"


def _noticed(value: Data) -> str:
    """How often, and after how long."""
    seconds, noticed = value["seconds"], value["noticed"]
    count = f"{noticed['hits']} of {noticed['trials']}"
    return f"never ({count})" if seconds is None else f"{_seconds(seconds)} ({count})"


def main() -> None:
    """Rewrite the marked tables of every page."""
    for page in PAGES:
        page.write_text(filled(page.read_text()))
        print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
