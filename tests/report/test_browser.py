"""The page in a real browser, where one is installed: no errors, drawn, narrow, dark, hostile."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from holmes.events.jsonl import append_objects
from holmes.events.memory import append_memory
from holmes.report.page import write_comparison
from tests.report import fixtures
from tests.report.test_page import EVIL

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
PHONE = 390
PROBE = """<!doctype html><meta charset="utf-8">
<iframe id="f" src="PAGE" style="width:WIDTHpx;height:900px;border:0"></iframe>
<pre id="out"></pre>
<script>
addEventListener("load", () => setTimeout(() => {
  const page = document.getElementById("f").contentDocument;
  const box = page.documentElement;
  const outside = [...page.querySelectorAll("body *")]
    .filter((node) => !node.closest(".scroll, svg, #tip")
      && node.getBoundingClientRect().right > WIDTH + 1)
    .map((node) => node.tagName + "." + node.className);
  document.getElementById("out").textContent = JSON.stringify({
    wide: box.scrollWidth, outside, spans: page.querySelectorAll("rect.span").length,
    alerts: page.defaultView.evil === true, paper: page.defaultView.getComputedStyle(page.body)
      .backgroundColor, ink: page.defaultView.getComputedStyle(page.body).color,
    scripts: page.querySelectorAll("script:not([type])").length,
    sections: [...page.querySelectorAll("section")].map((node) => node.id)});
}, 400));
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one of them with a hostile name, held-out losses and memory."""
    base = tmp_path_factory.mktemp("runs")
    runs: dict[str, Path] = {}
    for style, name in (("holmes", f"{EVIL}<img src=x onerror='evil=true'>"), ("megatron", "b")):
        folder = base / style
        fixtures.run_folder(folder, fixtures.plan(style))
        append_objects(folder / "evaluations.jsonl", [{"step": 4, "loss": 2.5}])
        for step in range(6):
            for rank in range(4):
                append_memory(folder, rank, step, 100_000_000 + rank * 1_000_000 + step)
        runs[name] = folder
    output = base / "page.html"
    write_comparison(runs, output, {})
    return output


def look(page: Path, width: int, *flags: str) -> tuple[dict[str, object], str]:
    """What the page looks like in a frame of this width, and what the console said."""
    probe = page.parent / f"probe-{width}.html"
    probe.write_text(PROBE.replace("PAGE", page.name).replace("WIDTH", str(width)))
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
        "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={page.parent / 'profile'}", "--proxy-server=127.0.0.1:9",
        "--virtual-time-budget=4000", "--window-size=1400,1000", *flags, probe.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "LANG": "C.UTF-8"}
    )
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found and found[1], done.stderr[-2000:]
    seen: dict[str, object] = json.loads(found[1].replace("&amp;", "&").replace("&gt;", ">"))
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return seen, console


@pytest.mark.parametrize("width", [PHONE, 1280])
def test_it_opens_offline_without_errors_and_fits(page: Path, width: int) -> None:
    seen, console = look(page, width)
    assert console == ""
    assert seen["outside"] == []
    assert int(str(seen["wide"])) <= width
    assert int(str(seen["spans"])) > 50, "the schedule is drawn by the script"
    assert not seen["alerts"] and seen["scripts"] == 1
    assert {"curves", "bytes", "crossings", "memory", "plan"} <= set(seen["sections"])  # type: ignore[call-overload]


def brightness(colour: object) -> float:
    return sum(int(part) for part in re.findall(r"\d+", str(colour))[:3]) / 3


def test_dark_and_light(page: Path) -> None:
    light, _ = look(page, 1280)
    dark, console = look(page, 1280, "--blink-settings=preferredColorScheme=0")
    assert console == ""
    assert brightness(light["paper"]) > 200 > 100 > brightness(light["ink"])
    assert brightness(dark["paper"]) < 60 < 180 < brightness(dark["ink"])
