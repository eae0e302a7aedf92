"""The trainer: next batch, run instructions, record, maybe evaluate, maybe save."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from holmes.data.batches import Batch
from holmes.errors import DataError
from holmes.events.metrics import StepMetrics
from holmes.runtime.checkpoint.folders import step_of
from holmes.runtime.checkpoint.random_state import seed_random
from holmes.runtime.checkpoint.write import Committed
from holmes.runtime.groups import Groups
from holmes.runtime.monitor.board import Phase
from holmes.runtime.monitor.monitor import Monitor
from holmes.runtime.pipeline.program import MicroBatch
from holmes.runtime.sharding.optimizer import ShardedAdamW
from holmes.train.assignment import Assignment
from holmes.train.fault_points import FaultPoints
from holmes.train.health import Health
from holmes.train.learning_rate import learning_rate
from holmes.train.ledger import Ledger
from holmes.train.measure import MeasuredStep, Stopwatch
from holmes.train.parts import Parts
from holmes.train.recorder import RunRecorder
from holmes.train.saving import load, make_saver, metadata, norms_in, state_of

Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended; ``validation`` is None where nothing is held out.

    ``stopped``: it was asked to, before its last step.
    """

    step: int
    loss: float | None
    validation: float | None
    checkpoint: Path | None
    stopped: bool = False


@dataclass(frozen=True)
class Outside:
    """A rank's connections to whoever runs it.

    Attributes:
        report: told step, loss and seconds after each step.
        asked: whether this rank was asked to stop.
        points: moments at which a fault may be injected.
    """

    report: Report
    asked: Callable[[], bool]
    points: FaultPoints


class Trainer:
    """Trains the plan of an assignment on one rank; every rank has one.

    Args:
        outside: what this rank hears from and tells others.
    """

    def __init__(
        self, assignment: Assignment, groups: Groups, parts: Parts, outside: Outside
    ) -> None:
        self.assignment, self.groups, self.report = assignment, groups, outside.report
        self.points = outside.points
        self.job, self.plan = assignment.job, assignment.plan
        self.interpreter, self.optimizer = parts.interpreter, parts.optimizer
        self.parts, self.batches, self.held_out = parts, parts.batches, parts.held_out
        slot = assignment.topology.devices[self.plan.rank_map[groups.rank]]
        self.stopwatch = Stopwatch(groups, slot, outside.asked)
        self.recorder = RunRecorder(assignment, groups)
        self.monitor = Monitor(
            assignment.run_folder, groups, parts.interpreter, assignment.faults(), parts.poison
        )
        self.share = self.plan.samples_of(groups.rank)
        self.ledger = self.open_ledger()
        self.health = self.open_health(parts.optimizer)
        self.first_step = 0
        self.loss: float | None = None
        self.validation: float | None = None
        self.saver = make_saver(assignment, groups, self.committed, self.points.reach)
        seed_random(self.job.train.seed, groups.rank)
        if assignment.resume_from is not None:
            self.resume(Path(assignment.resume_from))
        self.agree_on_start()

    def run(self) -> TrainResult:
        """Train to the assignment's last step; evaluate and save on the way and at the end."""
        step, stop = self.first_step - 1, False
        with self.saver:
            for step in range(self.first_step, self.assignment.steps):
                self.points.step = step
                self.parts.set_learning_rate(self.learning_rate(step))
                if self.health is not None:
                    self.health.before()
                measured = self.monitor.measure(step, lambda step=step: self.timed(step))  # type: ignore[misc]
                self.record(step, measured)
                self.judge(step, measured)
                self.saver.collect()
                stop = measured.stop and step + 1 < self.assignment.steps
                if self.due(step, self.job.train.evaluate_every) and not stop:
                    self.monitor.outside(step, Phase.EVALUATING)
                    self.evaluate(step + 1)
                if self.due(step, self.job.train.checkpoint_every) or stop:
                    self.monitor.outside(step, Phase.SAVING)
                    self.save(step + 1)
                self.monitor.outside(step, Phase.OUTSIDE)
                if stop:
                    break
            self.monitor.outside(step, Phase.SAVING)  # leaving waits for the last save
        self.points.reach("exit")
        self.recorder.close()
        self.monitor.close()
        folder = self.saver.last.folder if self.saver.last else None
        return TrainResult(step + 1, self.loss, self.validation, folder, stop)

    def timed(self, step: int) -> MeasuredStep:
        """One step, barrier to barrier."""
        return self.stopwatch.measure(lambda: self.step(step))

    def step(self, step: int) -> Any:
        """One step of the plan."""
        loader = self.loader(step) if self.batches else None
        return self.monitor.watch(step, lambda: self.interpreter.step(step, loader))

    def loader(self, step: int) -> Callable[[int], MicroBatch]:
        """Micro-batches of a step for this rank's replica, by number."""
        batches, (first, last), size = self.batches, self.share, self.plan.round_samples
        assert batches is not None

        def load_one(microbatch: int) -> MicroBatch:
            start = microbatch * size
            self.points.reach("loader")
            if self.ledger is not None:
                before = batches.samples_before(step) + start
                self.ledger.consume(range(before + first, before + last))
            return self.on_device(batches.samples(step, start + first, start + last))

        return load_one

    def on_device(self, batch: Batch) -> MicroBatch:
        """A micro-batch as tensors where the blocks are."""
        tokens, targets, documents = (
            None if ids is None else torch.from_numpy(ids).to(self.groups.device)
            for ids in (batch.tokens, batch.targets, batch.documents)
        )
        assert tokens is not None and targets is not None
        return MicroBatch(tokens, targets, documents, batch.weight)

    def due(self, step: int, every: int) -> bool:
        """Whether something that is done every so many steps, and after the last, is due."""
        return step + 1 == self.assignment.steps or (every > 0 and (step + 1) % every == 0)

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step."""
        return learning_rate(step, self.job.train.steps, self.job.optimizer)

    def record(self, step: int, measured: MeasuredStep) -> None:
        """Write the step down and tell the caller."""
        self.loss = measured.result.loss
        tokens = self.plan.batch.global_ * self.plan.workload.sequence
        metrics = StepMetrics(
            step=step,
            loss=self.loss,
            step_seconds=measured.seconds,
            tokens_per_second=tokens / measured.seconds,
            grad_norm=None if self.loss is None else measured.result.grad_norm,
            learning_rate=self.learning_rate(step),
            bytes=measured.bytes_,
        )
        spans = (*measured.result.spans, *measured.result.inner)
        self.recorder.step(metrics, spans, applied=measured.result.applied)
        if self.ledger is not None:
            self.ledger.step(step)
        self.report({"step": step + 1, "loss": self.loss, "seconds": measured.seconds})

    def open_health(self, optimizer: ShardedAdamW | None) -> Health | None:
        """What judges gradients and replicas, where there are any."""
        if optimizer is None:
            return None
        run, train = self.assignment.run_folder, self.job.train
        return Health(run, self.groups, optimizer, train.spike_factor)

    def judge(self, step: int, measured: MeasuredStep) -> None:
        """Look at the norm of a step, and now and then at the replicas."""
        if self.health is None:
            return
        result = measured.result
        said = self.health.after(
            step, result.grad_norm, applied=result.applied, rescaled=result.rescaled
        )
        if said is not None:
            self.report({"health": said})
            self.recorder.log(said)
        every = self.job.train.compare_replicas_every
        if every and (step + 1) % every == 0:
            self.interpreter.gather_parameters()
            self.health.compare_replicas(step + 1)

    def evaluate(self, step: int) -> None:
        """Mean loss over held-out text, the same on every rank."""
        held, wanted = self.held_out, self.job.train.evaluate_batches
        if held is None or wanted == 0:
            return
        (first, last), size = self.share, self.plan.round_samples
        count = held.rounds(size, max(1, wanted * self.plan.batch.micro // size))

        def load_one(index: int) -> MicroBatch:
            return self.on_device(held.samples(index * size + first, index * size + last))

        self.validation = self.interpreter.evaluate(load_one, count)
        self.recorder.evaluation(step, self.validation)

    def save(self, step: int) -> None:
        """Begin a checkpoint of the state before step ``step``."""
        if self.optimizer is None or self.batches is None or not self.assignment.save:
            return
        self.interpreter.gather_parameters()
        shards = state_of(self.optimizer, self.groups.rank)
        norms = self.health.norms if self.health is not None else ()
        self.saver.begin(step, shards, metadata(self.plan, self.batches, step, norms))

    def committed(self, saved: Committed) -> None:
        """Tell of a checkpoint that counts."""
        self.report({"step": step_of(saved.folder), "checkpoint": saved.folder.name})
        self.recorder.log(
            f"committed {saved.folder.name}: {saved.bytes_ / 1e6:.1f} MB, training stood still "
            f"for {saved.copy_seconds:.3f} s, written in {saved.write_seconds:.2f} s"
        )

    def resume(self, folder: Path) -> None:
        """Continue where a checkpoint ended."""
        if self.optimizer is None or self.batches is None:
            return
        self.monitor.outside(step_of(folder), Phase.SAVING)  # a large one takes its time
        self.first_step, self.batches = load(folder, self.optimizer, self.batches, self.groups)
        if self.health is not None:
            self.health.recall(norms_in(folder))
        self.monitor.outside(self.first_step, Phase.OUTSIDE)
        self.recorder.rewind(self.first_step)
        self.recorder.log(f"resumed from {folder.name}")

    def open_ledger(self) -> Ledger | None:
        """The ledger of this rank, where it is one of those that count samples."""
        counts = self.groups.rank in self.plan.stages[0].leaders
        if self.batches is None or not self.assignment.save or not counts:
            return None
        return Ledger(self.assignment.run_folder, self.groups.rank, self.groups.generation)

    def agree_on_start(self) -> None:
        """Refuse to mix states: under a launcher every rank looks for a checkpoint itself.

        Raises:
            DataError: not all ranks found the same step.
        """
        latest, earliest = self.groups.maximum(self.first_step, -self.first_step)
        if latest != -earliest:
            raise DataError(
                f"ranks would start at different steps, from {-earliest:.0f} to {latest:.0f}",
                where=f"rank {self.groups.rank}, step {self.first_step}",
                why="a checkpoint could not be read everywhere",
                next_step="see `holmes checkpoint verify` on every node, then start again",
            )
