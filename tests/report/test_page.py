"""The page is self-contained, escapes everything, holds the numbers, says what is missing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from holmes.errors import DataError, WriteError
from holmes.report.page import write_comparison, write_report
from tests.report import fixtures

EVIL = "<script>alert(1)</script>\"'&--></style>"


class Outline(HTMLParser):
    """Elements in order, with attributes, text by element, and whether all were closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.data: dict[str, str] = {}

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))
        if name != "meta":
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.data[str(self.tags[-1][1].get("id"))] = data
        elif self.open and self.open[-1] != "style":
            self.text += data + " "


def outline(path: Path) -> Outline:
    parser = Outline()
    parser.feed(path.read_text())
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    base = tmp_path_factory.mktemp("runs")
    summary: dict[str, Any] = {
        style: fixtures.run_folder(base / style, fixtures.plan(style))
        for style in ("holmes", "megatron")
    }
    times = [summary[style]["step_seconds"]["median"] for style in ("megatron", "holmes")]
    summary["speedup"] = times[0] / times[1]
    return base, summary


@pytest.fixture(scope="module")
def comparison(folders: tuple[Path, dict[str, Any]]) -> Path:
    base, summary = folders
    page = base / "both.html"
    names = {style: base / style for style in ("holmes", "megatron")}
    write_comparison(names, page, {**summary, "machine": {"cpu": "a test", "cores": 2}})
    return page


def test_the_comparison_holds_the_numbers(
    comparison: Path, folders: tuple[Path, dict[str, Any]]
) -> None:
    text = outline(comparison).text
    summary = folders[1]
    assert f"{summary['speedup']:.2f}× faster" in text
    for style in ("holmes", "megatron"):
        median = summary[style]["step_seconds"]["median"]
        shown = f"{median * 1000:.0f} ms" if median < 0.9995 else f"{median:.2f} s"
        assert shown in text
    assert "7.600 → 4.631" in text
    assert "36.8 MB" in text  # the formula's bytes of data.s0 over InfiniBand
    assert "cpu a test, cores 2" in text
    assert "links shaped" in text and "devices real" in text
    assert "extra warm-up" in text


def test_the_page_is_small_and_fetches_nothing(comparison: Path) -> None:
    page = comparison.read_text()
    assert len(page.encode()) < 2_000_000
    assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}", page, re.IGNORECASE)
    assert "@import" not in page and "url(" not in page
    tags = outline(comparison).tags
    names = {name for name, _ in tags}
    assert not names & {"link", "img", "iframe", "object", "embed", "base"}
    for _, attributes in tags:
        assert "src" not in attributes
        assert attributes.get("href", "#") == "#"
    policies = [a["content"] for n, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies and "default-src 'none'" in str(policies[0])


def test_embedded_spans_match_the_trace(comparison: Path, folders: Any) -> None:
    data = json.loads(outline(comparison).data["gantt-data"])
    at = {name: i for i, name in enumerate(data["fields"])}
    for run in data["runs"]:
        predicted = {row[at["id"]] for row in run["predicted"]}
        shown = run["measured"][str(run["shown"])]
        assert {row[at["id"]] for row in shown} == predicted
        for row in shown:
            assert 0 <= row[at["start_us"]] <= row[at["wire_us"]] <= row[at["stop_us"]]
            assert row[at["lane"]] < len(run["lanes"])
    transports = [{lane["transport"] for lane in run["lanes"]} for run in data["runs"]]
    assert transports[0] == {"", "infiniband", "roce", "ethernet"}
    assert transports[1] == {"", "ethernet"}
    plan = json.loads(outline(comparison).data["raw-0-plan.json"])
    assert plan["rank_map"] == [0, 1, 2, 3]


def test_every_string_is_escaped(tmp_path: Path) -> None:
    plan = fixtures.plan(model=EVIL)
    folder = tmp_path / "run"
    fixtures.run_folder(folder, plan, job=EVIL)
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"run": EVIL, "machine": {EVIL: EVIL}, "links": EVIL}
    summary["bytes_per_step"][EVIL] = {"measured": 1, "predicted": 2}
    (folder / "summary.json").write_text(json.dumps(summary))
    page = tmp_path / "page.html"
    write_comparison({EVIL: folder, "other": folder}, page, {"machine": EVIL})
    assert "<script>alert" not in page.read_text()
    parsed = outline(page)
    scripts = [a for name, a in parsed.tags if name == "script"]
    assert sum("type" not in attributes for attributes in scripts) == 1
    assert json.loads(parsed.data["raw-0-job.yaml"]) == EVIL
    assert EVIL in parsed.text


def test_names_from_the_trace_are_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fixtures.run_folder(folder, fixtures.plan())
    lines = (folder / "trace.jsonl").read_text().splitlines()
    first = json.loads(lines[0]) | {"lane": f"comm:{EVIL}", "op": EVIL, "id": 10**6}
    (folder / "trace.jsonl").write_text("\n".join([*lines, json.dumps(first)]) + "\n")
    write_report(folder, tmp_path / "page.html")
    assert "<script>alert" not in (tmp_path / "page.html").read_text()


FILES = ("job.yaml", "plan.json", "metrics.jsonl", "trace.jsonl", "predicted.jsonl", "summary.json")


@pytest.mark.parametrize("absent", FILES)
def test_an_absent_file_is_said_and_the_rest_is_shown(
    tmp_path: Path, folders: tuple[Path, dict[str, Any]], absent: str
) -> None:
    shutil.copytree(folders[0] / "holmes", tmp_path / "run")
    (tmp_path / "run" / absent).unlink()
    write_report(tmp_path / "run", tmp_path / "page.html")
    parsed = outline(tmp_path / "page.html")
    assert f"run has no {absent}" in parsed.text
    assert "The data behind this page" in parsed.text


@pytest.mark.parametrize("only", FILES)
def test_a_single_file_is_enough_for_a_page(
    tmp_path: Path, folders: tuple[Path, dict[str, Any]], only: str
) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(folders[0] / "holmes" / only, tmp_path / "run")
    write_report(tmp_path / "run", tmp_path / "page.html")
    assert outline(tmp_path / "page.html").text.count("so the page lacks") == len(FILES) - 1


@pytest.mark.parametrize("file", ["plan.json", "metrics.jsonl", "trace.jsonl", "summary.json"])
def test_a_malformed_file_is_refused_and_nothing_is_written(
    tmp_path: Path, folders: tuple[Path, dict[str, Any]], file: str
) -> None:
    shutil.copytree(folders[0] / "holmes", tmp_path / "run")
    (tmp_path / "run" / file).write_text("{broken\n")
    with pytest.raises(DataError) as error:
        write_report(tmp_path / "run", tmp_path / "page.html")
    assert str(tmp_path / "run" / file) in str(error.value.where)
    assert not (tmp_path / "page.html").exists()


def test_folders_without_a_run_and_unwritable_pages_are_refused(
    tmp_path: Path, folders: tuple[Path, dict[str, Any]]
) -> None:
    with pytest.raises(DataError, match="no such run folder"):
        write_report(tmp_path / "absent", tmp_path / "page.html")
    with pytest.raises(DataError, match="holds no run"):
        write_report(tmp_path, tmp_path / "page.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        write_report(folders[0] / "holmes", tmp_path / "file" / "page.html")


def test_virtual_devices_and_lost_comparisons_are_said(tmp_path: Path) -> None:
    slow = fixtures.run_folder(tmp_path / "slow", fixtures.plan("megatron"), devices="virtual")
    fast = fixtures.run_folder(tmp_path / "fast", fixtures.plan("holmes"), devices="virtual")
    page = tmp_path / "page.html"
    runs = {"slow": tmp_path / "slow", "fast": tmp_path / "fast"}
    write_comparison(runs, page, {})
    text = outline(page).text
    ratio = fast["step_seconds"]["median"] / slow["step_seconds"]["median"]
    assert f"{ratio:.2f}×: slower" in text
    assert "only the network part is measured" in text
    write_comparison({"one": tmp_path / "fast", "same": tmp_path / "fast"}, page, {})
    assert "no gain claimed" in outline(page).text


def test_a_diverged_loss_is_said_and_drawn_where_it_can_be(tmp_path: Path) -> None:
    fixtures.run_folder(tmp_path / "run", fixtures.plan())
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines[-1]["loss"] = "nan"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report(tmp_path / "run", tmp_path / "page.html")
    parsed = outline(tmp_path / "page.html")
    assert "not finite in some steps of run" in parsed.text
    points = [a["points"] for n, a in parsed.tags if n == "polyline"]
    assert len(points) == 2 and "nan" not in " ".join(str(p) for p in points)
