"""Loss scaling: exact where nothing overflows, a skipped step where something does."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from holmes.launch.pool import Pool
from holmes.runtime.groups import GroupOptions, Groups, Rendezvous, open_groups
from holmes.runtime.sharding.loss_scale import LossScale
from tests.runtime.cases import build, replica_of, run_steps
from tests.runtime.plans import Spec, plan_of
from tests.runtime.reference import batch_of

BEYOND_FP32 = 2.0**127


def test_the_scale_falls_at_once_and_rises_after_a_while() -> None:
    scale = LossScale(8.0, patience=2, dynamic=True)
    assert scale.after(finite=False) and scale.value == 4.0
    assert not scale.after(finite=True) and scale.value == 4.0
    assert not scale.after(finite=True) and scale.value == 8.0
    again = LossScale(1.0, dynamic=True)
    again.load(scale.state())
    assert again.value == 8.0


def test_an_overflow_at_the_least_scale_is_none_of_the_scales() -> None:
    scale = LossScale(1.0, dynamic=True)
    assert not scale.after(finite=False) and scale.value == 1.0
    fixed = LossScale()
    assert not fixed.after(finite=False) and fixed.value == 1.0


def _alone(spec: Spec) -> Groups:
    options = GroupOptions(interface_override="lo")
    return open_groups(plan_of(spec), 0, Rendezvous("127.0.0.1", 0, True), options)


@pytest.mark.parametrize("schedule", ["1f1b", "zero-bubble"])
def test_a_scaled_run_has_the_bits_of_a_plain_one(schedule: str) -> None:
    found = []
    for scale in (None, 2.0**16):
        spec = Spec(loss_scale=scale, schedule=schedule)
        groups = _alone(spec)
        engine = build(spec, groups)
        report = run_steps(engine, spec, replica_of(spec, 0), range(spec.steps))
        found.append((report, {s.name: s.parameter.detach().clone() for s in engine.slots}))
        engine.interpreter.close()
        groups.close()
    (plain, expected), (scaled, parameters) = found
    assert scaled["losses"] == plain["losses"] and scaled["norms"] == plain["norms"]
    assert all(torch.equal(parameters[name], expected[name]) for name in expected)


def test_an_overflow_changes_nothing_but_the_scale() -> None:
    spec = Spec(loss_scale=BEYOND_FP32)
    groups = _alone(spec)
    engine = build(spec, groups)
    before = {slot.name: slot.parameter.detach().clone() for slot in engine.slots}
    replica = replica_of(spec, 0)
    result = engine.interpreter.step(0, lambda m: batch_of(spec, 0, replica, m))
    assert (result.applied, result.rescaled) == (False, True)
    assert engine.optimizer.scale.value == BEYOND_FP32 / 2
    assert all(torch.equal(before[s.name], s.parameter) for s in engine.slots)
    state = engine.optimizer.named_shards()["optimizer/loss_scale"].tensor
    assert state[0].item() == BEYOND_FP32 / 2
    engine.interpreter.close()
    groups.close()


@pytest.mark.parallel
def test_fp16_trains_in_two_stages(ranks: Pool, tmp_path: Path) -> None:
    wide = Spec(pp=2, steps=6)
    losses = []
    for spec in (wide, replace(wide, precision="fp16", loss_scale=2.0**10)):
        words = {"spec": asdict(spec), "folder": str(tmp_path)}
        results = ranks.run("tests.runtime.cases:train", words, deadline_seconds=60, ranks=2)
        losses.append(results[0]["losses"])
    exact, narrow = losses
    assert narrow[-1] < narrow[0]
    assert narrow == pytest.approx(exact, rel=2e-3) and narrow != exact
