"""`import holmes`: functions that share their names with rooms, jobs in every form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import holmes
from holmes.api.calls import Planned, Simulated, resolved_job
from holmes.errors import ConfigError, UsageError
from holmes.hardware.read import read_site
from holmes.plan.plan import Plan

DEMO = Path(__file__).parents[2] / "examples" / "demo.yaml"
FIXED = ("parallel.schedule=1f1b", "parallel.pipeline=2", "parallel.data=2")


def test_plan_and_simulate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = holmes.plan("demo", DEMO, *FIXED)  # type: ignore[operator]
    assert isinstance(made, Planned) and isinstance(made.plan, Plan)
    made.show()
    seen = holmes.simulate(made, "clusters.roce.nics.roce.gbit_s=400")  # type: ignore[operator]
    assert isinstance(seen, Simulated)
    seen.show()
    shown = capsys.readouterr().out
    assert "predicted step" in shown and "demo" in shown
    assert len(seen.step_seconds) >= 2
    again = holmes.simulate(made.write(tmp_path / "plan.json"))  # type: ignore[operator]
    assert next(iter(again.step_seconds.values())) == next(iter(seen.step_seconds.values()))


def test_a_job_in_every_form() -> None:
    mapping = yaml.safe_load(DEMO.read_text())
    by_path, by_mapping = resolved_job(DEMO), resolved_job(mapping)
    assert by_path.job == by_mapping.job and by_path.site == by_mapping.site
    site = read_site("demo")
    assert resolved_job(mapping, site=site).site == site
    assert resolved_job(DEMO, "train.steps=7").job.train.steps == 7
    assert resolved_job(by_path) is by_path
    with pytest.raises(UsageError):
        resolved_job(by_path, "train.steps=7")
    with pytest.raises(ConfigError, match="steps"):
        resolved_job({**mapping, "train": {"stpes": 3}})


def test_rooms_stay_rooms_and_importing_stays_light() -> None:
    program = """
import sys, holmes
assert "pydantic" not in sys.modules and "numpy" not in sys.modules
assert callable(holmes.plan) and callable(holmes.rehearse)
from holmes.plan.plan import Plan
import holmes.simulate.events as events
assert holmes.plan.plan.Plan is Plan and holmes.simulate.events is events
try:
    holmes.nothing
except AttributeError as error:
    assert "nothing" in str(error)
else:
    raise SystemExit("no error")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
