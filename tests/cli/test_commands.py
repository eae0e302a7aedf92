"""The command line as a user meets it: start-up, contracts, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.cli import inside

ROOT = Path(__file__).parent.parent.parent
DEMO = str(ROOT / "examples" / "demo.yaml")
KEYS = (
    "train.steps", "batch.global", "batch.micro", "parallel.pipeline", "parallel.data",
    "parallel.rank_map", "model.heads", "model.layers", "clusters.ib.nodes", "optimizer.lr",
    "clusters.roce.nics.roce.gbit_s", "links.ib-roce.gbit_s", "rehearsal.devices", "oops.key",
)  # fmt: skip
VALUES = ("-1", "0", "nan", "1e308", "[]", "{a: 1}", "text", "null", "7", "99999999999", "true")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "holmes", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)


@pytest.mark.parametrize("words", [("--help",), ("plan", DEMO)])
def test_starting_needs_no_torch(words: tuple[str, ...]) -> None:
    probe = f"""
import sys
sys.argv = {["holmes", *words]!r}
from holmes.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("place", [".", "/"])
def test_a_folder_is_no_place_for_a_plan(place: str) -> None:
    code, _, err = inside.run("plan", DEMO, "-o", place)
    assert code == 74
    assert "it is a folder" in err


def test_a_name_is_refused_in_words() -> None:
    code, _, err = inside.run("plan", DEMO, "name=a/b")
    assert code == 78
    assert "letters (a-z), digits, dots" in err and "'a/b'" in err


def test_plan_json_keeps_its_contract() -> None:
    done = run("plan", DEMO, "--json", "--placement", "megatron")
    assert done.returncode == 0, done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)
    predicted = {
        "step_seconds", "low", "high", "tflops_per_device", "samples_per_second", "memory_bytes",
    }  # fmt: skip
    assert predicted <= set(plan["predicted"])
    assert {"tp", "pp", "dp", "cp", "ep"} <= set(plan["layout"])
    assert plan["rank_map"] == [0, 1, 2, 3]
    assert {"enumerated", "pruned", "evaluated", "feasible", "cpu_seconds"} <= set(plan["search"])
    assert {"name", "microbatches", "virtual_stages", "extra_warmup", "digest"} <= set(
        plan["schedule"]
    )
    assert {group["transport"]["fabric"] for group in plan["groups"]} == {"ethernet"}


def test_plan_answers_more_than_the_plan(tmp_path: Path) -> None:
    words = ("--seq", "128", "--top", "3", "--compare", "pp=2,dp=2,order=scattered", "--json")
    done = run("plan", DEMO, *words)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["workload"]["sequence"] == 128
    assert len(found["top"]) == 3 and found["pareto"]
    assert "today" in found["comparison"]["sentence"]
    folder = tmp_path / "megatron"
    done = run("plan", DEMO, "--export", "megatron", "-o", str(folder))
    assert done.returncode == 0, done.stderr
    assert {"hostfile", "megatron.args", "run.sh"} <= {path.name for path in folder.iterdir()}


def test_a_sweep_writes_a_page(tmp_path: Path) -> None:
    page = tmp_path / "sweep.html"
    words = ("--site", "selene", "--model", "gpt-1.3b", "--global-batch", "64")
    fixed = ("parallel.tensor=8", "parallel.context=1", "parallel.sharding=optimizer")
    sweep = ("--sweep", "nodes=1..4", "--page", str(page), "--json")
    done = run("plan", *words, *fixed, *sweep)
    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout)["sweep"]
    assert [point["nodes"] for point in points] == [1, 2, 4]
    assert "Tokens per second" in page.read_text()


def test_a_forced_rank_map_is_obeyed() -> None:
    done = run("plan", DEMO, "--json", "--rank-map", "0,2,3,1")
    assert json.loads(done.stdout)["rank_map"] == [0, 2, 3, 1]


def test_print_config_says_where_values_come_from() -> None:
    done = run("plan", DEMO, "train.steps=7", "--print-config", "--json")
    shown = json.loads(done.stdout)
    assert shown["train.steps"] == {"value": 7, "origin": shown["train.steps"]["origin"]}
    assert "override" in shown["train.steps"]["origin"]
    assert "demo.yaml:" in shown["batch.global"]["origin"]
    assert shown["data.seed"]["origin"] == "default"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("pln",), 2, "plan"),
        (("plan", DEMO, "--no-such"), 2, "no-such"),
        (("plan", "absent.yaml"), 78, "absent.yaml"),
        (("plan", DEMO, "--page", "x.html"), 2, "--sweep"),
        (("plan", DEMO, "--target", "3"), 2, "--objective"),
        (("plan", DEMO, "--export", "megatron"), 2, "-o DIR"),
        (("plan", DEMO, "--sweep", "nodes=4"), 78, "--sweep"),
        (("plan", DEMO, "--sweep", "nodes=1..2", "-o", "x.json", "--full"), 2, "--full, --output"),
        (("schema", "sites"), 2, "Invalid value for 'what': 'sites' is not"),
        (("plan", DEMO, "--compare", "tp"), 78, "--compare"),
        (("plan", DEMO, "trian.steps=3"), 78, "train"),
        (("plan", DEMO, "batch.global=15"), 78, "15"),
        (("plan", DEMO, "parallel.pipeline=64"), 78, "pipeline"),
        (("plan", DEMO, "model.heads=7"), 78, "heads"),
        (("rehearse", DEMO, "data.source=/no/where"), 65, "/no/where"),
        (("rehearse", DEMO, "output=/proc/nowhere"), 74, "/proc/nowhere"),
        (("report", "/no/run"), 65, "/no/run"),
    ],
)
def test_bad_input_is_one_message(words: tuple[str, ...], code: int, said: str) -> None:
    ended, _, told = inside.run(*words)
    assert ended == code, told
    assert said in told
    assert "Traceback" not in told


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), min_size=1, max_size=3))
def test_generated_overrides_never_end_in_a_traceback(changes: list[tuple[str, str]]) -> None:
    words = ["plan", DEMO, "--json", *(f"{key}={value}" for key, value in changes)]
    code, _, told = inside.run(*words)
    assert code in (0, 65, 78), told
