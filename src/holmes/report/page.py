"""One self-contained HTML page of a run, or of several runs side by side.

Everything is inside the file: style, script, pictures and data. It opens
offline, and its own content policy forbids it to fetch anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from holmes import __version__
from holmes.errors import WriteError
from holmes.events.metrics import metrics_to_dict
from holmes.plan.codec import plan_to_dict
from holmes.report.causes import Comparison
from holmes.report.parts.choices import plan_section, why
from holmes.report.parts.crossings import between_clusters
from holmes.report.parts.curves import curves
from holmes.report.parts.diagnosis import diagnosis
from holmes.report.parts.gantt import gantt, gantt_data
from holmes.report.parts.headline import headline
from holmes.report.parts.html import Html, data_block, join, section, tag
from holmes.report.parts.shares import where_time_goes
from holmes.report.parts.sitemap import sitemap
from holmes.report.parts.traffic import memory, traffic
from holmes.report.parts.waterfall import waterfall_section, why_slower
from holmes.report.run_data import RunData, read_run
from holmes.report.waterfall_table import signed

MOST_RAW_BYTES = 600_000
"""Raw files larger than this are not embedded; the page says so."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(run_folder: Path, output: Path) -> None:
    """Write the page of one run.

    Raises:
        DataError: when the folder holds no run, or a file in it is malformed.
        WriteError: when the page cannot be written.
    """
    _write(output, render([read_run(run_folder)], {}))


def write_comparison(
    run_folders: Mapping[str, Path], output: Path, summary: Mapping[str, Any]
) -> None:
    """Write the page that compares runs; the first is compared with the second.

    Args:
        run_folders: name shown on the page to run folder, at least two.
        output: the HTML file.
        summary: may hold ``speedup`` and ``machine``; else the medians are divided.

    Raises:
        DataError: when a folder holds no run, or a file in it is malformed.
        WriteError: when the page cannot be written.
    """
    runs = [read_run(folder, name) for name, folder in run_folders.items()]
    _write(output, render(runs, summary))


def write_page(output: Path, runs: Sequence[RunData], comparison: Comparison | None) -> None:
    """Write the page of runs that are in memory already, such as simulated ones.

    Raises:
        WriteError: when the page cannot be written.
    """
    _write(output, render(runs, {}, comparison))


def write_waterfall(output: Path, comparison: Comparison) -> None:
    """Write a page that holds one comparison.

    Raises:
        WriteError: when the page cannot be written.
    """
    title = f"{comparison.first} against {comparison.second}"
    heading = tag("h1", f"{signed(comparison.nanoseconds)} a step", class_="long")
    body = join(
        (
            tag("header", tag("p", "Holmes", class_="kicker"), heading),
            waterfall_section(comparison),
            tag("div", id="tip", role="status"),
        )
    )
    _write(output, document(title, body))


def render(
    runs: Sequence[RunData], summary: Mapping[str, Any], comparison: Comparison | None = None
) -> str:
    """The whole page as text; ``comparison`` takes the place of those of the runs."""
    schedule = gantt_data(runs)
    body = join(
        (
            headline(runs, summary),
            why(runs),
            diagnosis(runs),
            sitemap(runs),
            where_time_goes(runs),
            gantt(runs),
            why_slower(runs) if comparison is None else waterfall_section(comparison),
            curves(runs),
            traffic(runs),
            between_clusters(runs),
            memory(runs),
            plan_section(runs),
            _data(runs, schedule),
            tag("div", id="tip", role="status"),
            data_block("gantt-data", schedule),
        )
    )
    return document(" against ".join(run.name for run in runs), body)


def document(title: str, body: Html) -> str:
    """A page around its body: head, policy, style and script."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"Holmes: {title}"),
        tag("style", _asset("page.css")),
    )
    page = tag(
        "html", head, tag("body", tag("main", body), tag("script", _asset("page.js"))), lang="en"
    )
    return f"<!doctype html>\n{page}\n"


def _asset(name: str) -> Html:
    return Html(files("holmes.report").joinpath("assets", name).read_text(encoding="utf-8"))


def _write(output: Path, text: str) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WriteError(
            f"cannot write the report: {error.strerror}",
            where=str(output),
            next_step="choose another file with --output",
        ) from None


def _data(runs: Sequence[RunData], schedule: Mapping[str, Any]) -> Html:
    """Downloads of what the page was made from, and what was missing."""
    blocks: list[Html] = []
    links: list[Html] = []
    notes = [sentence for run in runs for sentence in run.missing]
    for index, run in enumerate(runs):
        for file, value in _raw(run):
            block = data_block(f"raw-{index}-{file}", value)
            if len(block) > MOST_RAW_BYTES:
                notes.append(f"{file} of {run.name} is too large to be embedded.")
                continue
            blocks.append(block)
            name = f"{run.name}-{file}"
            links.append(tag("a", name, href="#", data_raw=f"raw-{index}-{file}", download=name))
    links.append(tag("a", "spans.json", href="#", data_raw="gantt-data", download="spans.json"))
    notes += [
        f"{run['left_out']} more traced steps of {run['name']} are only in trace.jsonl."
        for run in schedule["runs"]
        if run["left_out"]
    ]
    return section(
        "data",
        "The data behind this page",
        "Measured, predicted and given values, as they were when the page was written.",
        tag("p", *links, class_="downloads"),
        tag("ul", *(tag("li", note) for note in notes), class_="missing") if notes else None,
        tag("footer", f"Written by holmes {__version__}."),
        *blocks,
    )


def _raw(run: RunData) -> list[tuple[str, Any]]:
    raw: list[tuple[str, Any]] = []
    if run.job:
        raw.append(("job.yaml", run.job))
    if run.plan:
        raw.append(("plan.json", plan_to_dict(run.plan)))
    if run.metrics:
        raw.append(("metrics.json", [metrics_to_dict(m) for m in run.metrics]))
    if run.summary:
        raw.append(("summary.json", dict(run.summary)))
    if run.recovery:
        raw.append(("recovery.json", dict(run.recovery)))
    return raw
