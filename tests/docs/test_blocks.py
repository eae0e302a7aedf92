"""What the documents tell people to type works.

``bash`` and ``python`` blocks are run, each document's in order in one folder. ``sh`` and ``py``
blocks are not, and the text before them says why. Every `holmes` line of any block is parsed by the
command line, and every link within the repository leads somewhere.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from holmes.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = [
    *PAGES,
    *sorted((ROOT / "docs" / "design").glob("*.md")),
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)\s]*)?\)")
REASON = "Not run by the tests:"
STANDS_FOR_SOMETHING = re.compile(r"\.\.\.|<|\b(JOB|NAME|RUN|TABLE\w*|PLAN|DIR|N)\b|\$")
GENERATED = "reference/"
OUTSIDE = re.compile(r"https?://[^\s)>\"'`]+")
OUTSIDE_LINKS = frozenset({"http://127.0.0.1:9400/metrics"})
"""All addresses that the documents name: a reader needs no network, so none can die."""
ANCHOR = re.compile(r"\]\(([^)#\s]*)#([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the text since the block before."""

    language: str
    text: str
    before: str


def blocks(page: Path) -> list[Block]:
    found, at = [], 0
    text = page.read_text()
    for match in FENCE.finditer(text):
        found.append(Block(match[1], match[2], text[at : match.start()]))
        at = match.end()
    return found


def name_of(page: Path) -> str:
    return page.stem


RUN = [page for page in PAGES if any(b.language in ("bash", "python") for b in blocks(page))]


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    program = tmp_path / "bin" / "holmes"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m holmes "$@"\n')
    program.chmod(0o755)
    variables = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    for block in blocks(page):
        command = {
            "bash": ["bash", "-euo", "pipefail", "-c", block.text],
            "python": [sys.executable, "-c", block.text],
        }.get(block.language)
        if command is not None:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=110, cwd=tmp_path, env=variables
            )
            assert done.returncode == 0, f"{block.text}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_is_not_run_says_why(page: Path) -> None:
    for block in blocks(page):
        if block.language in ("sh", "py"):
            assert REASON in block.before, block.text


def commands(page: Path) -> list[list[str]]:
    """The words of every `holmes` line, without comments, pipes and what stands before."""
    found = []
    for block in blocks(page):
        for line in block.text.replace("\\\n", " ").splitlines():
            line = re.split(r"\s#|^#|\||>|&&", line)[0].strip()
            line = re.sub(r"^.*--no-python\s+(?=holmes )", "", line)
            if line.startswith("holmes ") and not STANDS_FOR_SOMETHING.search(line):
                found.append(shlex.split(line)[1:])
    return found


def parse(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    parent = None
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, words
        with command.make_context("holmes", [], resilient_parsing=True) as context:
            parent = context
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, words, parent=parent)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_exists_with_its_options(page: Path) -> None:
    for words in commands(page):
        try:
            parse(list(words))
        except Exception as error:
            pytest.fail(f"{page.name}: holmes {shlex.join(words)}: {error}")


def test_a_wrong_command_is_found() -> None:
    for words in (["plan", "x.yaml", "--no-such"], ["plam"], ["train", "--steps", "many"]):
        with pytest.raises(Exception, match=r"no-such|plam|integer"):
            parse(words)


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in LINK.findall(text):
        if not target.startswith((GENERATED, f"../{GENERATED}")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads]
    return {re.sub(r"[-\s]+", "-", word) for word in words}


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_anchors_exist(page: Path) -> None:
    for target, anchor in ANCHOR.findall(FENCE.sub("", page.read_text())):
        if not target.startswith(("http", GENERATED, f"../{GENERATED}")):
            assert anchor in slugs(page.parent / target if target else page), f"{target}#{anchor}"


def test_addresses_outside_are_listed() -> None:
    found = {address for page in WRITTEN for address in OUTSIDE.findall(page.read_text())}
    assert found == OUTSIDE_LINKS
