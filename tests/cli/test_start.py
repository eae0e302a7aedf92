"""The command line as a shell and an editor see it: start, completion, colours, schema."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import holmes
from holmes.cli.main import app
from holmes.job.keys import job_keys

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "examples" / "demo.yaml")
HELP_SECONDS = 0.4


def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "holmes", *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, **more},
    )


def test_help_is_quick() -> None:
    """CPU seconds of a process, which other work on the machine does not stretch."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) <= HELP_SECONDS, spent


def test_version() -> None:
    assert run("--version").stdout == f"holmes {holmes.__version__}\n"


def test_every_command_begins_with_examples() -> None:
    import typer

    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for each in getattr(command, "commands", {name: command}).values():
            assert "Examples:\n  holmes " in (each.help or "") or name == "checkpoint", each.name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    done = run(_HOLMES_COMPLETE=f"source_{shell}")
    assert "_HOLMES_COMPLETE" in done.stdout and "holmes" in done.stdout


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("holmes pl", ["plan"]),
        ("holmes plan train.st", ["train.steps="]),
        ("holmes plan examples/de", ["examples/demo.yaml"]),
        ("holmes plan --global", ["--global-batch"]),
        ("holmes schema s", ["site"]),
    ],
)
def test_completion(line: str, found: list[str]) -> None:
    words = line.split()
    bash = run(_HOLMES_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert bash.stdout.split() == found
    fish = run(
        _HOLMES_COMPLETE="complete_fish",
        _TYPER_COMPLETE_ARGS=line,
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert fish.stdout.split()[0] == found[0]


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("plna",), "plan"),
        (("plan", DEMO, "--globl-batch", "8"), "--global-batch"),
        (("plan", DEMO, "trian.steps=3"), "train"),
        (("plan", DEMO, "train.setps=3"), "steps"),
        (("plan", DEMO, "model.hiden=3"), "hidden"),
        (("plan", "--site", "papr", "--model", "gpt-1.3b", "--global-batch", "8"), "paper"),
    ],
)
def test_a_misspelt_word_gets_a_suggestion(words: tuple[str, ...], near: str) -> None:
    done = run(*words)
    assert done.returncode in (2, 78)
    said = re.split("did you mean|possible options", done.stderr.lower(), maxsplit=1)
    assert near in said[1]


@pytest.mark.parametrize("words", [("--help",), ("plan", DEMO), ("plan", "--nothing")])
def test_no_colours_without_a_terminal(words: tuple[str, ...]) -> None:
    done = run(*words, NO_COLOR="1")
    assert "\x1b" not in done.stdout + done.stderr
    assert "\x1b" not in run(*words).stdout


def test_schemas_accept_what_the_reader_accepts(tmp_path: Path) -> None:
    for what in ("site", "job"):
        done = run("schema", what, "--json")
        schema = json.loads(done.stdout)
        assert schema["$schema"].startswith("https://json-schema.org")
        assert schema["additionalProperties"] is False
    keys = yaml.safe_load(Path(DEMO).read_text()).keys()
    assert keys <= schema["properties"].keys()
    target = tmp_path / "job.json"
    assert run("schema", "job", "-o", str(target)).returncode == 0
    assert json.loads(target.read_text()) == schema
    assert run("schema", "job", "-o", "/proc/none").returncode == 74


def test_keys_of_a_job() -> None:
    assert {"train.steps", "batch.global", "launch.ports", "name"} <= set(job_keys())


def test_ctrl_c_ends_a_search() -> None:
    """Here only the deadline counts; the signal comes in the search, however quick that is."""
    words = ["plan", "--site", "paper", "--model", "gpt-1.3b", "--global-batch", "64"]
    waits = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored under nohup
        "from holmes.planner.survey.score import Survey\n"
        "Survey.scores = lambda *_: (print(flush=True), time.sleep(60))\n"
        f"sys.argv = {['holmes', *words]!r}\n"
        "from holmes.cli.main import main\n"
        "main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", waits],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "\n", "the search did not begin"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "holmes: interrupted\n"


def test_origins_are_not_cut_in_a_pipe() -> None:
    said = run("plan", "examples/demo.yaml", "train.steps=7", "--print-config").stdout
    rows = {row[0]: row[1:] for line in said.splitlines() if (row := line.split())}
    assert rows["train.steps"] == ["7", "override"]
    assert rows["site.clusters.roce.nics.ethernet.gbit_s"][0] == "25.0"
    assert "…" not in said
