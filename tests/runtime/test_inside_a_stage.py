"""A rank that is late by seconds changes nothing; one that raises in a stage ends the others."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from holmes.errors import HolmesError
from holmes.launch.pool import Pool
from tests.runtime.plans import Spec
from tests.runtime.reference import train_plainly
from tests.runtime.stage_cases import MESSAGE

pytestmark = pytest.mark.parallel
SPECS = (
    Spec(pp=2, dp=2, steps=2, overlap=True, precision="fp64"),
    Spec(tp=2, pp=2, steps=2, precision="fp64", sharding="none"),
    Spec(dp=2, steps=2, sharding="parameters", precision="fp64"),
)


def name_of(spec: Spec) -> str:
    return f"tp{spec.tp}-pp{spec.pp}-dp{spec.dp}"


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_a_late_rank_is_waited_for(ranks: Pool, spec: Spec) -> None:
    _, losses, norms = train_plainly(spec)
    results = ranks.run(
        "tests.runtime.stage_cases:late",
        {"spec": asdict(spec), "victim": 1, "seconds": 2.0},
        deadline_seconds=40,
        ranks=spec.world,
    )
    for result in results:
        assert result["losses"] == pytest.approx(losses, rel=1e-12)
        assert result["norms"] == pytest.approx(norms, rel=1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_an_exception_in_a_stage_is_the_error(ranks: Pool, spec: Spec) -> None:
    said: list[str] = []
    with pytest.raises(HolmesError) as error:
        ranks.run(
            "tests.runtime.stage_cases:fail",
            {"spec": asdict(spec), "victim": 1},
            deadline_seconds=30,
            ranks=spec.world,
            on_progress=lambda rank, value: said.append(value["text"]),
        )
    assert MESSAGE in error.value.text() and "rank 1" in error.value.text()
    assert all("no answer from rank" in text for text in said)
