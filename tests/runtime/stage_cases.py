"""What ranks run to be late, or to fail, in the middle of a stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from torch import Tensor

from holmes.errors import HolmesError
from holmes.launch.context import RankContext
from holmes.runtime.pipeline.program import MicroBatch
from holmes.runtime.pipeline.stage import TorchStage
from tests.runtime.cases import build, join, replica_of, run_steps, spec_of

MESSAGE = "a number went wrong"


def late(context: RankContext, spec: dict[str, Any], victim: int, seconds: float) -> dict[str, Any]:
    """Train; one rank sleeps in the first block of a micro-batch."""
    pause = [seconds] if context.rank == victim else []
    return _train(context, spec, lambda: time.sleep(pause.pop()) if pause else None)


def fail(context: RankContext, spec: dict[str, Any], victim: int) -> dict[str, Any]:
    """One rank raises in its second micro-batch; the others say what they hear."""
    count = [0]

    def raise_later() -> None:
        count[0] += 1
        if context.rank == victim and count[0] == 3:
            raise ValueError(MESSAGE)

    try:
        return _train(context, spec, raise_later)
    except HolmesError as error:
        context.report({"text": error.text()})
        raise


def _train(context: RankContext, given: dict[str, Any], before: Callable[[], None]) -> Any:
    """Steps in which something happens before every block."""
    spec = spec_of(given)
    groups = join(context, spec, timeout_seconds=8.0)
    engine = build(spec, groups)
    plain = TorchStage._run

    def run(self: TorchStage, index: int, x: Tensor, batch: MicroBatch | None) -> Tensor:
        before()
        return plain(self, index, x, batch)

    try:
        with patch.object(TorchStage, "_run", run):
            found = run_steps(engine, spec, replica_of(spec, context.rank), range(spec.steps))
        return {"losses": found["losses"], "norms": found["norms"]}
    finally:
        engine.interpreter.close()
        groups.close()
