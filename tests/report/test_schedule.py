"""`holmes schedule show`: the drawing, the pictures, the JSON, and refusals."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from holmes import api
from holmes.cli import main as cli
from holmes.report.schedule_text import drawing
from holmes.schedule import SCHEDULES
from holmes.schedule.timeline import Durations

SVG = "{http://www.w3.org/2000/svg}"


def show(*words: str) -> int:
    return cli._run(["schedule", "show", *words], debug=False)


def test_the_drawing_has_equal_widths_and_every_action() -> None:
    facts = api.schedule("zero-bubble", 3, 4)
    lines = [line.plain for line in drawing(facts, letters=True)]
    assert lines[0].startswith("0 F0 F1 F2       I0 W0 F3")
    assert lines[2].startswith("2       F0 I0 F1 I1 F2 I2 W0")
    assert {len(line.rstrip()) for line in lines} == {1 + 3 * 14}


def test_fractional_times_are_drawn_in_their_common_unit() -> None:
    facts = api.schedule("1f1b", 1, 2, durations=Durations(0.5, 1.5, 0.75))
    (line,) = drawing(facts, letters=True)
    assert line.plain.rstrip() == "0 F0 B0------ F1 B1------"


@pytest.mark.parametrize("name", SCHEDULES)
def test_json_and_pictures_say_the_same(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, page = tmp_path / "s.svg", tmp_path / "s.html"
    words = (name, "--stages", "4", "--microbatches", "8", "--json")
    assert show(*words, "--svg", str(picture), "--html", str(page)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == name
    assert found["bubble_fraction"] == pytest.approx(found["bubble_closed_form"])
    actions = 4 * 8 * found["virtual_stages"] * (3 if name == "zero-bubble" else 2)
    assert len(found["timeline"]) == actions
    root = ElementTree.fromstring(picture.read_text())
    assert len(root.findall(f"{SVG}g")) == actions
    assert f"bubble {found['bubble_fraction']:.2%}" in picture.read_text()
    assert page.read_text().count("at most") == 4


def test_the_terminal_shows_bubble_and_peaks(capsys: pytest.CaptureFixture[str]) -> None:
    assert show("interleaved", "--stages", "4", "--microbatches", "8", "--virtual", "2") == 0
    out = capsys.readouterr().out
    assert "15.79% of the step (closed form 15.79%)" in out
    assert "5.5, 4.5, 3.5, 2.5 micro-batches" in out
    assert "lower case: every second stage" in out


def test_with_transfers_there_is_no_closed_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert show("1f1b", "--transfer", "0.5") == 0
    assert "no closed form" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("interleaved", "--microbatches", "6"), 78, "not a multiple of 4"),
        (("gpipe", "--virtual", "2"), 78, "one stage per rank"),
        (("gpipe", "--extra-warmup", "1"), 78, "no effect"),
        (("1f1b", "--stages", "0"), 78, "at least one stage"),
        (("1f1b", "--forward", "nan"), 78, "take time"),
        (("1f1b", "--backward", "inf"), 78, "take time"),
        (("1f1b", "--weight", "2"), 2, "no effect"),
        (("zero-bubble", "--weight", "2"), 78, "take time"),
        (("1f1b", "--stages", "400", "--microbatches", "400"), 78, "too many to draw"),
        (("1f1b", "--svg", "/proc/none/x.svg"), 74, "cannot write"),
        (("nothing",), 2, "is not one of"),
    ],
)
def test_refusals(
    words: tuple[str, ...], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(*words) == code
    assert says in capsys.readouterr().err
