"""Training with context ranks against plain training, on real ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holmes.errors import ConfigError
from holmes.launch.pool import Pool
from holmes.plan.program import program_of
from holmes.planner.groups import with_bytes
from holmes.planner.traffic import with_closed_bytes
from holmes.runtime.capabilities import check
from holmes.runtime.context.tally import declared
from tests.runtime.plans import Spec, plan_of
from tests.runtime.reference import BETAS, plain_gradients, train_plainly
from tests.runtime.trained import (
    BOUNDS,
    NO_CLIP,
    assert_trains_as_plain,
    kind,
    name_of,
    trained,
    worst,
)

GROUPED = {"family": "llama", "heads": 4, "key_heads": 2}
SPECS = [
    Spec(cp=2, precision="fp64"),
    Spec(cp=3, precision="fp64", algorithm="rsa", tied=True, sequence=11),
    Spec(cp=2, precision="fp64", algorithm="ulysses", recompute="selective"),
    Spec(cp=4, precision="fp64", sequence=9, **GROUPED),
    Spec(cp=4, precision="fp64", algorithm="ulysses", **GROUPED),
    Spec(cp=3, precision="fp64", window=3, **GROUPED),
    Spec(cp=2, tp=2, precision="fp64", sequence=11, apart=True),
    Spec(cp=2, pp=2, precision="fp64", algorithm="rsa", apart=True, recompute="full", **GROUPED),
    Spec(cp=2, precision="fp64", algorithm="ulysses", apart=True, recompute="selective"),
    Spec(cp=2, tp=2, precision="fp64", sequence=11, vocabulary=41, overlap=True),
    Spec(cp=2, tp=2, precision="fp64", algorithm="ulysses", heads=4, positions="rotary"),
    Spec(cp=2, pp=2, precision="fp64", tied=True, schedule="zero-bubble", sequence=9),
    Spec(cp=2, pp=2, precision="fp64", recompute="full", **GROUPED),
    Spec(cp=2, dp=2, precision="fp64", overlap=True, sharding="none", algorithm="rsa"),
    Spec(cp=2, dp=2, precision="fp64", overlap=True, **GROUPED),
]


@pytest.mark.parallel
@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_training_equals_plain_training(ranks: Pool, spec: Spec, tmp_path: Path) -> None:
    assert_trains_as_plain(ranks, spec, tmp_path)


@pytest.mark.parallel
@pytest.mark.parametrize(
    "spec",
    [Spec(cp=3, sequence=10), Spec(cp=2, tp=2, algorithm="rsa"), Spec(cp=4, **GROUPED)],
    ids=name_of,
)
def test_gradients_of_every_tensor(ranks: Pool, spec: Spec, tmp_path: Path) -> None:
    one = replace(spec, steps=1, clip=NO_CLIP)
    expected = plain_gradients(one)
    _, found = trained(ranks, one, tmp_path)
    gradients = {n: m / (1 - BETAS[0]) for n, m in kind(found, "exp_avg/").items()}
    assert worst(gradients, expected, one) <= BOUNDS[spec.precision]


@pytest.mark.parallel
def test_half_precision_trains(ranks: Pool, tmp_path: Path) -> None:
    """Keys and values travel in the width that products compute in, as the plan counts."""
    spec = Spec(cp=2, precision="bf16", algorithm="ring", **GROUPED)
    _, losses, _ = train_plainly(spec)
    results, _ = trained(ranks, spec, tmp_path)
    assert results[0]["losses"] == pytest.approx(losses, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cp": 16}, "no token for each of 16 ranks"),
        ({"algorithm": "ulysses", "cp": 4}, "2 attention heads do not divide over 4 context"),
        ({"algorithm": "ulysses", "tp": 2}, "1 attention heads do not divide over 2 context"),
        ({"cp": 3, "sequence": 8}, None),
    ],
)
def test_what_context_ranks_cannot_share_is_refused(
    changes: dict[str, Any], words: str | None
) -> None:
    plan = plan_of(replace(Spec(cp=2), **changes))
    if words is None:
        check(plan)
        return
    with pytest.raises(ConfigError, match=words) as error:
        check(plan)
    assert error.value.exit_code == 78


@pytest.mark.parametrize(
    "spec",
    [
        Spec(cp=2, pp=2),
        Spec(cp=4, dp=2, algorithm="rsa", sequence=9, recompute="full"),
        Spec(cp=2, tp=2, algorithm="ulysses", recompute="selective", **{**GROUPED, "key_heads": 1}),
    ],
    ids=name_of,
)
def test_the_plan_publishes_what_the_ranks_are_held_to(spec: Spec) -> None:
    """Every step is compared with what :func:`declared` says; the plan's groups say the same."""
    plan = plan_of(spec)
    groups = [g for g in with_bytes(plan.groups, program_of(plan), plan) if g.axis == "context"]
    assert len(groups) == spec.pp * spec.dp * spec.tp
    for group in groups:
        each = sum(declared(plan, rank).total_bytes for rank in group.ranks)
        assert group.bytes_per_step == pytest.approx(each * spec.microbatches, abs=1)
    closed = {g.name: g.bytes_per_step for g in with_closed_bytes(plan.groups, plan)}
    listed = with_bytes(plan.groups, program_of(plan), plan)
    assert closed == {g.name: g.bytes_per_step for g in listed}


def test_bytes_of_a_step_by_hand() -> None:
    """Ring: N - 1 hops of keys and values forward, of these and their gradients backward."""
    plan = plan_of(Spec(cp=2, layers=2, microbatches=3))
    chunk = 2 * (8 // 2) * 16 * 4  # samples, tokens, hidden, bytes
    tally = declared(plan, 0)
    assert tally.calls == {"ring": 2 * 3}
    assert tally.bytes_ == {"ring": 2 * (2 + 4) * chunk}
