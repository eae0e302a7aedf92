"""What a rank is made of: stage, optimiser, interpreter, data. Built once, from the Plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from holmes.cost.calibration import calibration_from_dict
from holmes.cost.model import CostModel
from holmes.data.batches import BatchPlan, HeldOut
from holmes.data.prepare import Prepared, TextPart, TextSettings, TokenFiles, prepare_parts
from holmes.errors import ConfigError
from holmes.job.job import Job
from holmes.lab.faults import Fault
from holmes.models.common.hf.store import FolderWeights
from holmes.models.registry import (
    describe,
    family_of,
    model_module,
    sharding_module,
    weights_module,
)
from holmes.runtime.groups import Groups
from holmes.runtime.pipeline.assemble import (
    StageModel,
    real_engine,
    stages_of,
    virtual_engine,
)
from holmes.runtime.pipeline.interpreter import Interpreter
from holmes.runtime.pipeline.pace import Pace
from holmes.runtime.pipeline.virtual import BlockSeconds
from holmes.runtime.sharding.optimizer import ShardedAdamW
from holmes.train.assignment import Assignment
from holmes.train.export import keep_tokenizer
from holmes.train.settings import adamw_settings, dtype_of

BITS = [1 << bit for bit in range(31)] + [-(1 << 31)]


@dataclass(frozen=True)
class Parts:
    """``optimizer``, ``batches`` and ``held_out`` are None where devices are virtual
    (``held_out`` also where no text is held out)."""

    interpreter: Interpreter
    optimizer: ShardedAdamW | None
    batches: BatchPlan | None
    held_out: HeldOut | None

    def poison(self, fault: Fault) -> bool:
        """Put a NaN or a flipped bit into a gradient of this rank, or a flipped bit into its copy
        of the parameters, as an injected fault does; false while all gradients are zero."""
        if self.optimizer is None:
            return True
        if fault.kind == "nan":
            next(self.optimizer.gradients())[0] = math.nan
            return True
        chosen = self.optimizer.gradients() if fault.kind == "flip" else self.optimizer.parameters()
        flat = max(chosen, key=lambda values: float(values.abs().max()))
        place = int(flat.abs().argmax())
        one = flat[place : place + 1].view(torch.uint8).view(torch.int32)
        if not one.any():
            return False
        one ^= BITS[fault.bit]
        return True

    def set_learning_rate(self, value: float) -> None:
        """The learning rate of the steps that follow."""
        if self.optimizer is not None:
            self.optimizer.set_learning_rate(value)


def build_parts(assignment: Assignment, groups: Groups) -> Parts:
    """Build this rank's parts.

    Raises:
        ConfigError: plan, model and text do not fit each other.
        DataError: the text is missing or bad.
    """
    build = _virtual_parts if assignment.virtual else _real_parts
    return build(assignment, groups)


def _real_parts(assignment: Assignment, groups: Groups) -> Parts:
    job, plan = assignment.job, assignment.plan
    family = family_of(job.model)
    module, config = model_module(family), describe(family).config_from(job.model)
    sharding = sharding_module(family)
    weights = None if assignment.resume_from else folder_weights(job, config)
    model = StageModel(
        partial(
            module.build_blocks,
            config,
            seed=job.train.seed,
            dtype=dtype_of(job.train.precision),
            device=groups.device,
            absent=weights is not None,
        ),
        module.loss,
        sharding.decays,
        sharding.tied_parameters(config),
        partial(module.autocast, job.train.precision, groups.device.type),
        Pace(assignment.compute_cores(groups.rank)),
        sharding.TENSOR_SPLIT,
        weights.read if weights else None,
        job.data.packing == "documents",
        sharding.CONTEXT_SPLIT,
    )
    engine = real_engine(plan, groups, model, adamw_settings(job.optimizer, job.train))
    files = assignment.tokens or prepare_data(job).files
    batches, held_out = open_data(job, files, config)
    if groups.rank == 0:
        keep_tokenizer(assignment.run_folder, Path(files.tokenizer), files.end, config.sequence)
    return Parts(engine.interpreter, engine.optimizer, batches, held_out)


def folder_weights(job: Job, config: Any) -> FolderWeights | None:
    """The parameters that a job's model begins with; None: they are drawn.

    Raises:
        DataError: the folder is damaged, or of another model.
        ConfigError: its weights are pickles.
    """
    folder = job.model.get("from")
    if folder is None:
        return None
    layout = weights_module(family_of(job.model)).layout(config)
    return FolderWeights(Path(str(folder)), layout)


def _virtual_parts(assignment: Assignment, groups: Groups) -> Parts:
    plan = assignment.plan
    cost = CostModel(
        assignment.topology,
        plan.workload,
        calibration_from_dict(plan.calibration, where="plan.calibration"),
    )
    slot = assignment.topology.devices[plan.rank_map[groups.rank]]
    first, last = plan.samples_of(groups.rank)
    micro, seconds = last - first, {}
    for stage in stages_of(plan, groups.rank):
        for index in range(*stage.blocks):
            tp = stage.layout.tp
            time = cost.block_time(index, slot, micro, tp, plan.recompute)
            weight = cost.weight_seconds((index, index + 1), slot, micro, tp)
            seconds[index] = BlockSeconds(time.forward, time.backward, weight)
    per_element = cost.calibration.optimizer_seconds_per_element or 0.0
    engine = virtual_engine(plan, groups, seconds, per_element)
    return Parts(engine.interpreter, None, None, None)


def open_data(job: Job, files: TokenFiles, config: Any) -> tuple[BatchPlan, HeldOut | None]:
    """Training batches and held-out text of a job.

    Raises:
        ConfigError: the text uses more token ids than the model has.
        DataError: the text is missing, bad or too short.
    """
    train, held = files.open()
    check_vocabulary(job, train.parts[0].vocabulary, config)
    apart = job.data.packing == "documents"
    batches = BatchPlan(train, config.sequence, job.batch.global_, job.data.seed, apart=apart)
    if held is None or job.train.evaluate_batches == 0:
        return batches, None
    return batches, HeldOut(held, config.sequence, apart)


def check_vocabulary(job: Job, vocabulary: int, config: Any) -> None:
    """Refuse a text whose ids the model cannot take.

    Raises:
        ConfigError: naming both sizes.
    """
    if vocabulary > config.vocabulary:
        raise ConfigError(
            f"the text has {vocabulary} token ids, the model {config.vocabulary}",
            where="data.vocabulary, model.vocabulary",
            why="the tokenizer is of another model" if tokenizer_of(job) else None,
            next_step="set data.tokenizer to the model's own"
            if tokenizer_of(job)
            else f"set data.vocabulary={config.vocabulary}, or a larger model.vocabulary",
        )


def tokenizer_of(job: Job) -> Path | None:
    """The tokenizer that a job brings: its own, else that of its model's folder."""
    if job.data.tokenizer is not None:
        return Path(job.data.tokenizer)
    folder = job.model.get("from")
    beside = Path(str(folder)) / "tokenizer.json"
    return beside if folder is not None and beside.exists() else None


def prepare_data(job: Job, progress: Callable[[str], None] | None = None) -> Prepared:
    """The token files of a job, made once and kept in the cache."""
    data = job.data
    parts = [TextPart(p.source, p.weight, p.field or data.field) for p in data.parts()]
    settings = TextSettings(
        data.vocabulary,
        data.validation_fraction,
        tokenizer_of(job),
        int(data.document_mb * 2**20),
    )
    return prepare_parts(parts, settings, Path(data.cache) if data.cache else None, progress)
