"""TensorBoard scalars of a run: what the metrics hold, beside what the plan predicted."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from holmes.errors import UnavailableError
from holmes.events.metrics import StepMetrics
from holmes.job.job import Job
from holmes.plan.plan import Plan

FOLDER = "tensorboard"


def check_board(job: Job) -> None:
    """Refuse before anything starts what could only fail on a rank.

    Raises:
        UnavailableError: the job wants TensorBoard, and it is not installed.
    """
    if job.train.tensorboard and find_spec("tensorboard") is None:
        raise UnavailableError(
            "TensorBoard is not installed",
            where="train.tensorboard",
            next_step="pip install 'holmes[tensorboard]', or set train.tensorboard=false",
        )


class ScalarBoard:
    """Writes scalars to ``tensorboard/`` in the run folder; of one rank only."""

    def __init__(self, run: Path, plan: Plan) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run / FOLDER))
        self._predicted = plan.predicted.step_seconds

    def step(self, metrics: StepMetrics) -> None:
        """The scalars of one step; what the step did not have is left out."""
        values: dict[str, float | None] = {
            "loss/train": metrics.loss,
            "gradient_norm": metrics.grad_norm,
            "learning_rate": metrics.learning_rate,
            "step_seconds/measured": metrics.step_seconds,
            "step_seconds/predicted": self._predicted,
            "tokens_per_second": metrics.tokens_per_second,
            **{f"bytes_sent/{kind}": float(sent) for kind, sent in metrics.bytes.items()},
        }
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, metrics.step)

    def evaluation(self, step: int, loss: float) -> None:
        """The loss on held-out text."""
        self._writer.add_scalar("loss/validation", loss, step)

    def close(self) -> None:
        """Flush what is open."""
        self._writer.close()
