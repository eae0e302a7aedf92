"""What `holmes plan` answers besides the plan: candidates, objectives, today's layout, exports."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from holmes.errors import ConfigError, WriteError
from holmes.hardware.site import Site
from holmes.plan.layout import Wishes
from holmes.plan.program import program_of
from holmes.planner import shortage
from holmes.planner.answer import Wanted, answer
from holmes.planner.breakdown import breakdown
from holmes.planner.draft import dealt
from holmes.planner.estimates import Estimates
from holmes.planner.groups import with_bytes
from holmes.planner.megatron import arguments, export, hosts
from holmes.planner.note import change_lines, time_lines
from holmes.planner.request import PlanRequest
from holmes.planner.search import Search, make_plan
from holmes.planner.settings import settings_of
from holmes.planner.subsites import scaled
from holmes.planner.sweep import sizes, sweep
from holmes.planner.today import compared, todays
from holmes.planner.traffic import with_closed_bytes
from tests.planner.test_search import RUNTIME
from tests.planner.test_survey import asked, gpt, gpus

SIZES = {
    "layers": 24, "hidden": 2048, "heads": 16, "sequence": 2048, "vocabulary": 51200, "ffn": 8192,
}  # fmt: skip


def small(**wishes: object) -> PlanRequest:
    plain = {"context": 1, "sharding": "optimizer", "recompute": "none", "schedule": "gpipe"}
    return replace(asked(gpus(1, 1), gpt("gpt-1.3b"), 64, **{**plain, **wishes}), largest_lists=0)


def priced(price: float) -> Site:
    data = gpus(2, 2).model_dump(mode="json")
    for cluster in data["clusters"]:
        cluster["price_per_hour"] = price
    return Site.model_validate(data)


def test_the_answer_lists_the_best_first_and_says_what_the_others_lose() -> None:
    found = answer(replace(small(), capabilities=RUNTIME), Wanted(top=5))
    seconds = [offer.step_seconds for offer in found.top]
    assert seconds[0] == found.best.predicted.step_seconds
    assert all(seconds[0] <= other * 1.006 for other in seconds)
    assert all("times the best" in offer.reason for offer in found.top[1:])
    assert found.plan.predicted.step_seconds >= found.best.predicted.step_seconds
    assert bool(found.missing) == (found.best is not found.plan)


def test_the_front_is_one() -> None:
    front = answer(small(recompute=None, schedule=None), Wanted()).front
    assert len(front) > 2
    for before, after in pairwise(front):
        assert before.step_seconds <= after.step_seconds
        assert before.memory_bytes > after.memory_bytes


def test_fewest_devices_for_a_deadline() -> None:
    request = replace(small(tensor=8), site=gpus(2, 2))
    whole = make_plan(request).predicted.step_seconds
    found = answer(request, Wanted(objective="devices", target_seconds=2.5 * whole))
    assert found.sized is not None
    assert found.sized.devices < 32
    assert found.plan.predicted.step_seconds <= 2.5 * whole
    with pytest.raises(ConfigError, match="makes a step in") as caught:
        answer(request, Wanted(objective="devices", target_seconds=whole / 2))
    assert "times too slow" in str(caught.value)
    with pytest.raises(ConfigError, match="needs a deadline"):
        answer(request, Wanted(objective="devices"))


def test_cost_needs_prices_and_prefers_cheap_tokens() -> None:
    with pytest.raises(ConfigError, match="price of every node"):
        answer(small(), Wanted(objective="cost"))
    found = answer(replace(small(tensor=8), site=priced(16.0)), Wanted(objective="cost")).sized
    assert found is not None and found.dollars_per_hour is not None
    per_token = found.dollars_per_hour / 3600 / found.tokens_per_second
    assert found.dollars_per_million_tokens == pytest.approx(per_token * 1e6)


def test_a_sweep_grows_and_names_what_does_not_fit() -> None:
    request = replace(small(tensor=8), site=priced(16.0))
    points = sweep(request, sizes("nodes=2..8"))
    assert [point.nodes for point in points] == [2, 4, 8]
    rates = [point.tokens_per_second or 0.0 for point in points]
    assert rates == sorted(rates)
    assert points[0].efficiency == 1.0
    assert all(point.cost_per_million_tokens for point in points)
    big = replace(asked(gpus(1), gpt("gpt-175b"), 64), largest_lists=0)
    assert sweep(big, [1])[0].reason


@pytest.mark.parametrize("text", ["nodes=8", "nodes=8..2", "nodes=0..4", "gpus=1..2", "nodes=a..b"])
def test_a_sweep_is_a_range(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sizes(text)
    assert caught.value.where == "--sweep"


def test_a_scaled_site_keeps_its_proportions() -> None:
    clusters = scaled(gpus(1, 3), 16).clusters
    assert [cluster.nodes for cluster in clusters] == [4, 12]


def test_beside_what_runs_today() -> None:
    request = small()
    plan = make_plan(request)
    found = compared(plan, request, "tp=2,pp=2,order=launch")
    assert found["speedup"] > 1
    assert "times faster than today" in found["sentence"] and "because" in found["sentence"]
    assert todays(request, "tp=2,micro=4").micro_batch == 4
    for text, said in (
        ("tp", "key=value"),
        ("oder=launch", "did you mean"),
        ("tp=x", "whole number"),
    ):
        with pytest.raises(ConfigError, match="does not say what runs today") as caught:
            todays(request, text)
        assert said in caught.value.text()


def test_parts_of_a_step_add_up() -> None:
    search = Search(small())
    best = search.winner()
    parts = breakdown(best.draft, best.seconds).parts()
    assert math.fsum(parts.values()) == pytest.approx(best.seconds)
    assert parts["compute"] > 0.5 * best.seconds
    (line,) = time_lines(best.draft, best.seconds)
    assert line.startswith("where the ") and "compute" in line
    shares = [int(share) for share in re.findall(r"\((\d+)%\)", line)]
    assert sum(shares) == pytest.approx(100, abs=len(shares) / 2)
    changes = "\n".join(change_lines(best.draft, search.pricing))
    assert "what binds" in changes and "times faster, same layout" in changes


def test_closed_bytes_are_those_of_the_lists() -> None:
    for wishes in ({"pipeline": 4, "tensor": 2}, {"pipeline": 1}, {"pipeline": 16}):
        plan = make_plan(small(schedule="1f1b", **wishes))
        listed = with_bytes(plan.groups, program_of(plan, check=False), plan)
        closed = with_closed_bytes(plan.groups, plan)
        for a, b in zip(listed, closed, strict=True):
            assert a.bytes_per_step == pytest.approx(b.bytes_per_step, rel=1e-6), a.name


def test_dealt_borders_keep_all_blocks() -> None:
    borders = dealt(((0, 7), (7, 12), (12, 20)), 3)
    assert len(borders) == 9
    assert borders[0][0] == 0 and borders[-1][1] == 20
    assert all(a[1] == b[0] and a[0] < a[1] for a, b in pairwise(borders))
    counts = [sum(stop - start for start, stop in borders[rank::3]) for rank in range(3)]
    assert counts == [7, 5, 8]


def test_megatron_arguments_say_the_plan(tmp_path: Path) -> None:
    plan = make_plan(small(tensor=2, pipeline=4))
    words = " ".join(arguments(plan, SIZES))
    assert "--tensor-model-parallel-size 2" in words
    assert "--pipeline-model-parallel-size 4" in words
    assert f"--micro-batch-size {plan.batch.micro}" in words
    assert hosts(plan) == ["c0-0 slots=8", "c1-0 slots=8"]
    written = export(plan, tmp_path / "out", SIZES)
    assert all(Path(path).read_text() for path in written)
    assert "--nnodes 2 --nproc-per-node 8" in (tmp_path / "out" / "run.sh").read_text()
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(WriteError):
        export(plan, blocked, SIZES)


def test_nothing_fits_says_by_how_much_and_what_would() -> None:
    request = asked(gpus(1), gpt("gpt-18b"), 64, tensor=8, recompute="none", sharding="none")
    with pytest.raises(ConfigError, match="no plan of gpt-18b fits") as caught:
        make_plan(replace(request, micro_batch=8))
    text = caught.value.text()
    assert "GB on stage 0, has 80.0 GB" in text
    assert "would fit" in text


def test_one_change_is_not_enough_and_the_layout_nearest_to_fitting_is_named() -> None:
    """Deep pipelines lack the least per device; sharding and recomputation together fit."""
    wishes = {"tensor": 1, "recompute": "none", "sharding": "none", "context": 1, "pipeline": 8}
    request = asked(gpus(2, 2), gpt("gpt-39b"), 1536, **wishes)
    with pytest.raises(ConfigError, match="no plan of gpt-39b fits") as caught:
        make_plan(replace(request, micro_batch=4))
    text = caught.value.text()
    assert "tp 1 x pp 8 x dp 4" in text and "has 80.0 GB" in text
    assert "parallel.recompute=" in text and "parallel.sharding=" in text
    assert "would fit at +" in text


def test_another_schedule_may_be_what_fits() -> None:
    wishes = {"tensor": 8, "pipeline": 2, "schedule": "gpipe"}
    request = asked(gpus(1, 1), gpt("gpt-18b"), 768, **wishes)
    with pytest.raises(ConfigError, match="no plan of gpt-18b fits") as caught:
        make_plan(replace(request, micro_batch=8))
    assert "parallel.schedule=1f1b" in caught.value.text()


def first_of(request: PlanRequest) -> Estimates:
    """Any candidate of a request."""
    search = Search(request)
    search.survey()
    row = search.field.row(search.field.flat()[2][0])
    return Estimates(search.settings, row.shape, row.ground, row.choice)


@pytest.mark.parametrize("wish", [None, 2])
def test_advice_for_one_stage_per_rank_withdraws_a_wish_for_several(wish: int | None) -> None:
    request = small(tensor=2, pipeline=4, schedule="interleaved", virtual_stages=wish)
    changed = shortage._changed(request, first_of(request), 1)
    (words,) = [words for words, _ in changed if "parallel.schedule=1f1b" in words]
    assert words[1:] == ([] if wish is None else ["parallel.virtual_stages=1"])
    advised = {word.removeprefix("parallel.").split("=")[0] for word in words}
    wishes = replace(request.wishes, schedule="1f1b")
    if "virtual_stages" in advised:
        wishes = replace(wishes, virtual_stages=1)
    assert settings_of(wishes, None).virtual_stages != (2,)


def test_where_nothing_helps_the_size_of_device_that_would_is_named() -> None:
    request = asked(gpus(1), gpt("gpt-39b"), 8)
    with pytest.raises(ConfigError, match="no plan of gpt-39b fits") as caught:
        make_plan(request)
    text = caught.value.text()
    assert "or more of these than 8" in text
    assert "leave more of" not in text, "nothing was fixed"
    needs = float(re.findall(r"needs ([\d.]+) GB", text)[0])
    (size,) = map(int, re.findall(r"devices of at least (\d+) GB", text))
    assert 80 < needs <= size < needs + 1.1


def test_the_size_that_would_fit_is_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """80.4 GB on devices of 80 are not helped by devices of 80; a fixed expert degree counts
    among what may be left to the planner."""
    monkeypatch.setattr(shortage, "_fullest", lambda _: (0, 80.4e9))
    request = small(tensor=2, pipeline=4)
    estimates = first_of(request)
    free, fixed = (replace(request, wishes=Wishes(expert=ep)) for ep in (None, 2))
    assert "devices of at least 81 GB" in shortage._larger(free, estimates)
    assert "leave more of" not in shortage._larger(free, estimates)
    assert "leave more of" in shortage._larger(fixed, estimates)
