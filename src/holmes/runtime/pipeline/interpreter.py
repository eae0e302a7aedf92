"""The interpreter: walks a rank's instruction list, step after step.

The main thread runs what computes; each communication goes to its lane when the walk
reaches it (docs/design/0001-instructions-and-lanes.md). The simulator follows the same
rules, so measured and predicted spans share instruction ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from holmes.errors import ConfigError
from holmes.events.join import COMPUTE_LANE
from holmes.events.span import Span
from holmes.plan.program import LOSS_SLOTS
from holmes.runtime import collectives
from holmes.runtime.communicator import Communicator
from holmes.runtime.groups import Groups
from holmes.runtime.lanes import Completion, Lanes
from holmes.runtime.monitor.observer import Observer, Unobserved
from holmes.runtime.pipeline.boundary import Boundaries, part_of, place, whole_name
from holmes.runtime.pipeline.pace import Pace
from holmes.runtime.pipeline.program import Blocks, MicroBatch, StageProgram
from holmes.runtime.sharding.optimizer import Outcome, StepOptimizer
from holmes.runtime.tensor.lane import Part, PartLog
from holmes.schedule.instruction import ACCUMULATING_OPS, COMPUTE_OPS, Instruction, Op
from holmes.schedule.lower import Program

REFRESHES = ("part", "parameters")
"""What is brought up to date once a step, by the kind of buffer that it writes."""
LoadBatch = Callable[[int], MicroBatch]
"""The micro-batch of this number, of this rank's data replica, in the current step."""


@dataclass(frozen=True)
class StepResult:
    """What one step did, the same on every rank but for the spans.

    ``loss`` is the mean over the global batch, None where devices are virtual.
    ``applied`` is false when the norm was not finite: the step changed nothing.
    ``rescaled`` says that a smaller loss scale is the answer to that. ``inner`` are spans of
    parts of instructions.
    """

    step: int
    loss: float | None
    grad_norm: float
    applied: bool
    spans: tuple[Span, ...]
    rescaled: bool = False
    inner: tuple[Span, ...] = ()


class Interpreter:
    """Runs the program of one rank.

    Args:
        stages: the (virtual) stages of this rank, in model order.
        tensors: parameter tensors of the whole model, the length of the squared norms.
        pace: what holds this rank's computation to the speed of its device.

    ``observer`` is told when an instruction begins and ends; nobody is, unless it is set.
    ``parts`` is where what runs beside what inside an instruction is noted, if anywhere.

    Raises:
        ConfigError: when the boundary buffers of the stage are not what the plan sends.
    """

    def __init__(
        self,
        program: Program,
        groups: Groups,
        stages: Sequence[StageProgram],
        optimizer: StepOptimizer,
        tensors: int,
        pace: Pace | None = None,
    ) -> None:
        self._rank = groups.rank
        self._list = program.ranks[groups.rank]
        self._groups = groups
        self._stages = {stage.place.stage: stage for stage in stages}
        self._optimizer = optimizer
        self._clock = groups.clock
        self._pace = pace or Pace(None)
        self._tensors = tensors
        self._completion = Completion()
        self._buffers = Boundaries(self._list)
        self._batches: dict[tuple[int, int], MicroBatch] = {}
        self._spans: list[Span] = []
        self._outcome = Outcome(0.0, False)
        self._load: LoadBatch | None = None
        self._step = -1
        self._squares = self._empty_squares()
        lanes = {ins.lane for ins in self._list if ins.op not in COMPUTE_OPS}
        self._comms: dict[str, Communicator] = {
            lane: groups[lane.removeprefix("comm:")] for lane in sorted(lanes)
        }
        self._refreshes = [ins for ins in self._list if _kind(ins) in REFRESHES]
        self._refreshes_first = bool(self._refreshes) and self._refreshes[0] is self._list[0]
        self._weights = {_bucket(ins): ins for ins in self._list if _kind(ins) == "weights"}
        self._ranges = {stage: self._ranges_of(stage) for stage in self._stages}
        self._stale = False
        self._check_boundaries()
        self.observer: Observer = Unobserved()
        self.parts: PartLog | None = None
        self._lanes = Lanes(self._comms, self._communicate, self._completion, groups.device)

    def step(self, number: int, load_batch: LoadBatch | None = None) -> StepResult:
        """Run one step; every rank calls it.

        Args:
            number: the step, for the spans.
            load_batch: called once per micro-batch on ranks of the first and last stage.

        Raises:
            RankDiedError: another rank went away; names instruction, lane and peers.
        """
        self._step, self._load = number, load_batch
        self._spans = []
        self._inner: list[Span] = []
        if self.parts is not None:
            self.parts.take()  # an evaluation is no step
        self._squares = self._empty_squares()
        self._completion.reset()
        try:
            self._walk()
        except BaseException as error:
            self._completion.fail(error)
            raise
        self._stale = self._refreshes_first
        loss = float(self._squares[-1].item())
        return StepResult(
            step=number,
            loss=loss if load_batch is not None else None,
            grad_norm=self._outcome.norm,
            applied=self._outcome.applied,
            spans=tuple(sorted(self._spans, key=lambda span: (span.start, span.id))),
            rescaled=self._outcome.rescaled,
            inner=tuple(self._inner),
        )

    def gather_parameters(self) -> None:
        """Bring parameters up to date outside a step; every rank calls it.

        With overlap the gathers stand at the head of the next step. Call this before
        an evaluation or a checkpoint.
        """
        if self._stale:
            for ins in self._refreshes:
                self._exchange(ins)
        self._stale = False

    def evaluate(self, load_batch: LoadBatch, count: int) -> float:
        """Mean loss over ``count`` micro-batches of each replica; every rank calls it.

        Nothing is kept for backward. Parameters are brought up to date first.
        """
        self.gather_parameters()
        total = torch.zeros(2, dtype=torch.float64, device=self._groups.device)
        before, after = self._first_transfers(Op.RECEIVE), self._first_transfers(Op.SEND)
        for microbatch in range(count):
            for number, stage in self._stages.items():
                received = None
                for source in before[number]:
                    received = stage.new_input() if received is None else received
                    part = part_of(received, source.peer)
                    collectives.receive(self._comms[source.lane], part, source.partner)
                    if len(source.peer) > 1:
                        place(received, source.peer, part)
                batch = load_batch(microbatch) if stage.uses_data else None
                output = self._evaluate(number, received, batch)
                for target in after[number]:
                    part = part_of(output, target.peer)
                    collectives.send(self._comms[target.lane], part, target.partner)
                if stage.place.is_last:
                    samples = 1 if batch is None else len(batch.tokens)
                    total[0] += output.item() * samples * stage.tokens.weight
                    total[1] += samples * stage.tokens.weight
        if self._groups.world_size > 1:
            collectives.all_reduce(self._groups["world"], total)
        loss, count = total.tolist()
        return float(loss / count)

    def _evaluate(self, number: int, received: Tensor | None, batch: MicroBatch | None) -> Tensor:
        """Forward of a stage, one bucket after the other where weights are gathered for it."""
        stage, output = self._stages[number], received
        for blocks, holds in self._ranges[number]:
            for bucket in holds:
                self._exchange(self._weights[bucket])
            output = stage.evaluate(blocks, output, batch)
            self._optimizer.free(holds)
        assert output is not None
        return output

    @property
    def lanes(self) -> tuple[str, ...]:
        """The lanes of this rank's list, the one that computes first."""
        return (COMPUTE_LANE, *self._comms)

    def close(self) -> None:
        """End the lanes."""
        self._lanes.close()

    def _ranges_of(self, stage: int) -> list[tuple[Blocks, tuple[int, ...]]]:
        """The ranges in which a stage runs forward, and the sharded buckets that each needs."""
        mine = [ins for ins in self._list if ins.stage == stage and ins.op is Op.FORWARD]
        return [
            (ins.blocks, ins.holds if self._weights else ())
            for ins in mine
            if ins.microbatch == mine[0].microbatch
        ]

    def _walk(self) -> None:
        for ins in self._list:
            if ins.op in COMPUTE_OPS:
                self._completion.wait(ins.waits)
                start = self._clock()
                self.observer.begin(ins)
                with self._pace:
                    self._compute(ins)
                self.observer.end(ins)
                span = self._record(ins, start)
                for number, part in enumerate(self.parts.take() if self.parts else (), 1):
                    self._inner.append(_inner_span(span, number, part))
                self._completion.finish(ins.id)
            else:
                self._lanes.submit(ins)
        self._completion.wait(ins.id for ins in self._list)

    def _compute(self, ins: Instruction) -> None:
        if ins.op is Op.STEP:
            if self._groups.world_size == 1:
                self._fill_squares()
            self._outcome = self._optimizer.step(self._squares[:-1])
            self._finish_stream()  # lanes gather what the update wrote, on streams of their own
            return
        if ins.op in ACCUMULATING_OPS:
            self._optimizer.open(ins.holds)
        if ins.op is Op.FORWARD:
            self._forward(ins)
        elif ins.op is Op.WEIGHT_GRADIENT:
            self._stages[ins.stage].weight_gradient(_microbatch(ins), ins.blocks)
        else:
            self._backward(ins)
        self._optimizer.free(ins.frees)

    def _forward(self, ins: Instruction) -> None:
        stage, micro = self._stages[ins.stage], _microbatch(ins)
        place, key = stage.place, (ins.stage, micro)
        received = None
        if ins.blocks[0] == place.start:
            if not place.is_first:
                received = self._buffers.take(f"input.s{ins.stage}.m{micro}")
            if self._load is not None and stage.uses_data:
                self._batches[key] = self._load(micro)
        ends = ins.blocks[1] == place.stop
        batch = self._batches.pop(key, None) if ends else self._batches.get(key)
        output = stage.forward(micro, ins.blocks, received, batch)
        if ends and not place.is_last:
            self._buffers.leave(ins.buffer, output)

    def _backward(self, ins: Instruction) -> None:
        stage, micro = self._stages[ins.stage], _microbatch(ins)
        place = stage.place
        received = None
        if ins.blocks[1] == place.stop and not place.is_last:
            received = self._buffers.take(f"output_gradient.s{ins.stage}.m{micro}")
        run = stage.backward if ins.op is Op.BACKWARD else stage.input_gradient
        gradient = run(micro, ins.blocks, received)
        if ins.blocks[0] == place.start and not place.is_first:
            assert gradient is not None
            self._buffers.leave(ins.buffer, gradient)

    def _communicate(self, ins: Instruction) -> None:
        """Run one communication to its end; called by the instruction's lane."""
        start = self._clock()
        self.observer.begin(ins)
        comm = self._comms[ins.lane]
        if ins.op is Op.SEND:
            collectives.send(comm, self._buffers.outgoing(ins), ins.partner)
        elif ins.op is Op.RECEIVE:
            part = self._buffers.incoming(ins, lambda: self._boundary_buffer(ins))
            collectives.receive(comm, part, ins.partner)
            self._buffers.arrived(ins, part)
        elif ins.buffer == "norms":
            self._fill_squares()
            collectives.all_reduce(comm, self._squares)
        else:
            self._exchange(ins)
        self._finish_stream()
        self.observer.end(ins)
        self._record(ins, start)

    def _exchange(self, ins: Instruction) -> None:
        """A collective of the optimiser, told by what it writes."""
        bucket, comm, optimizer = _bucket(ins), self._comms[ins.lane], self._optimizer
        match _kind(ins):
            case "weights":
                optimizer.gather(bucket, comm)
            case "gradients":
                optimizer.reduce(bucket, comm)
            case "sums":
                optimizer.across(bucket, comm)
            case "part" | "parameters" as kind:
                optimizer.refresh(bucket, comm, part=kind == "part")
            case _:
                optimizer.sum_tied(bucket, comm)

    def _finish_stream(self) -> None:
        """An instruction is complete when its work on the device is."""
        if self._groups.device.type == "cuda":
            torch.cuda.current_stream(self._groups.device).synchronize()

    def _boundary_buffer(self, ins: Instruction) -> Tensor:
        """Room for what a receive brings."""
        stage = self._stages[ins.stage]
        return stage.new_input() if ins.lane.endswith(".down") else stage.new_output_gradient()

    def _first_transfers(self, op: Op) -> dict[int, list[Instruction]]:
        """By stage, the sends or receives of its first micro-batch, towards later stages."""
        found: dict[int, dict[str, Instruction]] = {number: {} for number in self._stages}
        for ins in self._list:
            if ins.op is op and ins.lane.endswith(".down"):
                found[ins.stage].setdefault(ins.lane, ins)
        return {number: list(by_lane.values()) for number, by_lane in found.items()}

    def _fill_squares(self) -> None:
        """This rank's squared norms, and behind them its losses."""
        self._optimizer.add_squares(self._squares)
        self._squares[-1] = sum(stage.take_loss() or 0.0 for stage in self._stages.values())

    def _empty_squares(self) -> Tensor:
        return torch.zeros(
            self._tensors + LOSS_SLOTS, dtype=torch.float64, device=self._groups.device
        )

    def _record(self, ins: Instruction, start: int) -> Span:
        span = Span(
            id=ins.id,
            rank=self._rank,
            step=self._step,
            lane=ins.lane,
            op=ins.op.value,
            stage=ins.stage,
            microbatch=ins.microbatch,
            start=start,
            stop=self._clock(),
            bytes=ins.bytes,
            buffer=ins.buffer,
        )
        self._spans.append(span)
        return span

    def _check_boundaries(self) -> None:
        planned: Counter[tuple[str, int]] = Counter()
        first: dict[tuple[str, int], Instruction] = {}
        for ins in self._list:
            if ins.op is Op.RECEIVE:
                key = (whole_name(ins), ins.stage)
                planned[key] += ins.bytes
                first.setdefault(key, ins)
        for key, bytes_ in planned.items():
            buffer = self._boundary_buffer(first[key])
            if buffer.nbytes != bytes_:
                raise ConfigError(
                    f"stage {key[1]} receives {buffer.nbytes} bytes per micro-batch, "
                    f"the plan says {bytes_}",
                    where=f"rank {self._rank}, {first[key].lane}",
                    why="the plan was made for another precision or sequence length",
                    next_step="plan again with `holmes plan`",
                )


def _inner_span(whole: Span, number: int, part: Part) -> Span:
    return replace(
        whole,
        lane=part.lane,
        op=part.op,
        start=part.start,
        stop=part.stop,
        bytes=part.bytes_,
        buffer="",
        inner=number,
    )


def _microbatch(ins: Instruction) -> int:
    assert ins.microbatch is not None
    return ins.microbatch


def _kind(ins: Instruction) -> str:
    """What a collective writes: the first word of its buffer's name."""
    return ins.buffer.partition(".")[0]


def _bucket(ins: Instruction) -> int:
    """The bucket index at the end of a collective's buffer name."""
    return int(ins.buffer.rpartition(".")[2])
