"""From what ranks measured to the block times a rehearsal plans with."""

from __future__ import annotations

import itertools

from holmes.cost.calibration import BlockTime
from holmes.job.resolve import resolve_job
from holmes.runtime.pipeline.pace import Pace
from holmes.runtime.profile import Measured, profile_blocks, run_chain
from holmes.train.planning import measured_calibration, runnable
from holmes.train.tasks import short_model

SITE = (
    "{name: two, clusters: ["
    "{name: a, nodes: 1, device: {kind: cpu-core, speed: 2}, nics: [{kind: ethernet, gbit_s: 1}]},"
    "{name: b, nodes: 1, device: {kind: cpu-core}, nics: [{kind: ethernet, gbit_s: 1}]}],"
    "links: [{between: [a, b], kind: ethernet, gbit_s: 1}]}"
)
WORDS = [f"site={SITE}", "model={preset: gpt-1m, sequence: 16, vocabulary: 512}", "batch.global=2"]


def test_busy_seconds_become_wall_seconds_at_speed_one() -> None:
    resolved = resolve_job(None, WORDS, {})
    busy = [
        {
            "blocks": {"head": {"forward": f, "backward": 2 * f, "input": f, "weight": 2 * f}},
            "optimizer": 1e-9,
            "drag": drag,
        }
        for f, drag in ((1, None), (3, 2e-9))
    ]
    found = measured_calibration(resolved, 1, busy, cores=0.5)
    head = found.blocks["cpu-core"]["head"]
    # Median 2 s on half a core are 4 s on the fastest device; at speed 1 they are twice that.
    assert head == BlockTime(8.0, 16.0, weight=16.0, dividing=8.0)
    assert found.optimizer_seconds_per_element == 4e-9
    assert found.drag_seconds_per_byte == 4e-9


def test_split_blocks_were_measured_as_a_rank_takes_them() -> None:
    resolved = resolve_job(None, WORDS, {})
    one = {"forward": 1.0, "backward": 2.0, "input": 1.0, "weight": 1.0}
    busy = {"blocks": {"head": one}, "split_blocks": {"head": one}, "optimizer": 1e-9}
    found = measured_calibration(resolved, 1, [{**busy, "drag": None}], cores=0.5, tensor=2)
    assert found.measured("cpu-core", "head", 1) == BlockTime(4.0, 8.0, 4.0)
    assert found.measured("cpu-core", "head", 2) == BlockTime(2.0, 4.0, 2.0)  # wall seconds already
    assert found.measured("cpu-core", "head", 4) is None


def test_the_measured_chain_is_a_short_model() -> None:
    job = runnable(resolve_job(None, WORDS, {}), on_gpu=False).job
    stage, kinds, batch = short_model(job, 2)
    assert kinds[0] == "embedding" and kinds[-1] == "head" and "transformer" in kinds
    assert stage.place.total == len(kinds)
    loss = stage.forward(0, (0, len(kinds)), None, batch)
    assert loss.item() > 0


def test_blocks_are_measured_with_a_backward_in_one_and_in_two_parts() -> None:
    job = runnable(resolve_job(None, WORDS, {}), on_gpu=False).job
    stage, kinds, batch = short_model(job, 2)
    ticks = itertools.count()
    found = profile_blocks(stage, kinds, batch, Pace(None), repeats=1, clock=lambda: next(ticks))
    assert set(found) == set(kinds)
    assert all(one == Measured(1.0, 1.0, 1.0, 1.0, 0.0) for one in found.values())
    assert len(run_chain(stage, kinds, batch, Pace(None), divided=True)) == 3
