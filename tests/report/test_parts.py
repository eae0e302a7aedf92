"""The pieces of the page that compute something: charts, folding, budgets, the site map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holmes.events.span import Span, Timeline
from holmes.hardware.site import Fabric, Site
from holmes.report import units
from holmes.report.parts import gantt
from holmes.report.parts.chart import MOST_POINTS, thin, ticks
from holmes.report.parts.gantt import gantt_data
from holmes.report.parts.html import Html, data_block, tag
from holmes.report.parts.map_model import MOST_CARDS, site_map
from holmes.report.parts.traffic import memory
from holmes.report.run_data import RunData, read_run
from tests.report import fixtures


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_round_inside_and_few(low: float, spread: float) -> None:
    high = low + spread
    if not high > low:
        return
    found = ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), spread)
    assert all(low - slack <= tick <= high + slack for tick in found)
    assert 1 <= len(found) <= 12


@given(st.integers(1, 5000))
def test_thinning_keeps_both_ends(length: int) -> None:
    points = [(float(i), float(i * i)) for i in range(length)]
    kept = thin(points)
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert len(kept) <= MOST_POINTS + 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4121, "412 ms"), (1.1, "1.10 s"), (0.00002, "20.0 µs"), (125.0, "2 min 5 s"), (0, "0 s")],
)
def test_seconds(value: float, text: str) -> None:
    assert units.seconds(value) == text


def test_other_units() -> None:
    assert units.seconds(None) == units.bytes_(float("nan")) == "not known"
    assert units.bytes_(41_234_567) == "41.2 MB"
    assert units.bytes_(999_999) == "1 MB"
    assert units.percent(0.0172) == "+1.7\N{NO-BREAK SPACE}%"
    assert units.percent(-0.3) == "\N{MINUS SIGN}30.0\N{NO-BREAK SPACE}%"
    assert units.percent(-0.0001) == "0.0\N{NO-BREAK SPACE}%"
    assert units.rate(0.2) == "200 Mb/s"


@given(st.text())
def test_only_markup_passes_unescaped(text: str) -> None:
    element = tag("p", text, Html("<b>x</b>"), data_tip=text)
    body = element.removeprefix("<p data-tip=").removesuffix("<b>x</b></p>")
    assert "<" not in body and body.count(">") == 1
    assert "<" not in data_block("id", text)[len('<script type="application/json" id="id">') : -9]


def test_the_map_carries_the_bytes_of_each_group() -> None:
    drawn = site_map(fixtures.plan("holmes"), shaped=False)
    plan = fixtures.plan("holmes")
    by_fabric = {edge.fabric: edge.bytes_ for edge in drawn.edges}
    assert by_fabric[Fabric.INFINIBAND] == plan.group_by_name["data.s0"].bytes_per_step
    assert by_fabric[Fabric.ROCE] == plan.group_by_name["data.s1"].bytes_per_step
    assert sum(edge.fabric is Fabric.ETHERNET for edge in drawn.edges) == 2
    ports = [port for c in drawn.clusters for card in c.cards for port in card.ports]
    total = sum(group.bytes_per_step for group in plan.groups)
    assert sum(port.bytes_ for port in ports) == pytest.approx(total)


def test_the_map_shows_the_rates_of_the_rehearsal_only_when_links_were_shaped() -> None:
    site = fixtures.site()
    rehearsal = {"scale": 0.5, "rates": {"ib": {"infiniband": 0.25}}}
    scaled = type(site).model_validate(site.model_dump() | {"rehearsal": rehearsal})
    plan = replace(fixtures.plan(), site=scaled)

    def rates(shaped: bool) -> list[float]:
        drawn = site_map(plan, shaped=shaped)
        return [port.gbit_s for c in drawn.clusters for port in c.cards[0].ports]

    assert rates(True) == [0.25, 0.1, 0.3, 0.1]
    assert rates(False) == [1.0, 0.2, 0.6, 0.2]


def test_a_site_of_many_hosts_is_folded_and_keeps_its_bytes() -> None:
    plan = replace(fixtures.plan(), site=fixtures.site(nodes=40), rank_map=(0, 39, 40, 79))
    drawn = site_map(plan, shaped=False)
    assert [len(cluster.cards) for cluster in drawn.clusters] == [MOST_CARDS, MOST_CARDS]
    assert drawn.clusters[0].cards[-1].name == "37 more hosts"
    crossing = sum(edge.bytes_ for edge in drawn.edges)
    assert crossing == sum(g.bytes_per_step for g in plan.groups if g.axis != "world")


def test_the_page_keeps_to_its_budget_of_spans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixtures.run_folder(tmp_path / "run", fixtures.plan())
    run = read_run(tmp_path / "run")
    one_step = len(run.predicted.spans)
    monkeypatch.setattr(gantt, "MOST_SPANS", 3 * one_step)
    (data,) = gantt_data([run])["runs"]
    assert str(run.typical_step) in data["measured"]
    assert len(data["measured"]) == 2
    assert data["left_out"] == 2


def test_many_ranks_are_folded_to_one_of_each_stage() -> None:
    spans = tuple(Span(rank, rank, 0, "compute", "forward", 0, 0, 0, 5) for rank in range(16))
    stages = tuple(
        replace(stage, ranks=tuple(range(8 * i, 8 * i + 8)))
        for i, stage in enumerate(fixtures.plan().stages)
    )
    plan = replace(
        fixtures.plan(),
        site=fixtures.site(nodes=8),
        rank_map=tuple(range(16)),
        stages=stages,
    )
    nothing = Timeline("measured")
    run = RunData("many", plan, (), nothing, Timeline("predicted", spans), {}, "", ())
    (data,) = gantt_data([run])["runs"]
    assert data["fold"] == [0, 8]
    assert len(data["lanes"]) == 16
    assert data["lanes"][9]["node"] == "roce-1"


def test_the_typical_step_is_nearest_the_median(tmp_path: Path) -> None:
    fixtures.run_folder(tmp_path / "run", fixtures.plan())
    run = read_run(tmp_path / "run")
    times = {m.step: m.step_seconds for m in run.metrics}
    middle = run.step_seconds
    assert middle is not None and run.typical_step is not None
    traced = {span.step for span in run.measured.spans}
    best = min(abs(times[step] - middle) for step in traced)
    assert abs(times[run.typical_step] - middle) == best


def test_the_memory_limit_comes_from_the_site_else_from_the_catalogue() -> None:
    def drawn(device: dict[str, object]) -> str:
        data = fixtures.site().model_dump()
        for cluster in data["clusters"]:
            cluster["device"] = device
        site = Site.model_validate(data)
        plan = replace(fixtures.plan(), site=site)
        nothing = Timeline("measured")
        return str(memory([RunData("run", plan, (), nothing, nothing, {}, "", ())]))

    assert "of 3 GB" in drawn({"kind": "a100-80g-sxm", "memory_gb": 3.0})
    assert "device memory" in drawn({"kind": "a100-80g-sxm"})
    assert "no limit is drawn" in drawn({"kind": "nobody-knows-this"})
