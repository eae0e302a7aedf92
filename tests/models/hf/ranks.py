"""What ranks run in the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from holmes.launch.context import RankContext
from holmes.models.common.hf.store import FolderWeights
from holmes.models.registry import (
    describe,
    family_of,
    model_module,
    sharding_module,
    weights_module,
)
from holmes.runtime.checkpoint.manifest import Box
from holmes.runtime.pipeline import assemble
from holmes.runtime.pipeline.assemble import ReadParameter, StageModel, real_engine
from holmes.runtime.pipeline.program import MicroBatch
from holmes.runtime.sharding.bucket_state import AdamWSettings
from holmes.runtime.sharding.buckets import Slot
from tests.runtime.cases import join
from tests.runtime.plans import Spec, plan_of


@dataclass(frozen=True)
class FolderSpec(Spec):
    """A plan for the model of a folder."""

    folder: str = ""

    @property
    def config(self) -> Any:
        model = {"from": self.folder}
        return describe(family_of(model)).config_from(model)


def logits(context: RankContext, spec: dict[str, Any]) -> dict[str, Any]:
    """This rank's share of the logits of the tokens in the folder, written beside them."""
    chosen = folder_spec(spec)
    folder = Path(chosen.folder)
    given = load_file(folder / "tokens.ids")
    seen: list[torch.Tensor] = []

    def watch(block: nn.Module) -> None:
        if hasattr(block, "projection"):
            block.projection.register_forward_hook(lambda *given: seen.append(given[2]))

    model = stage_model(chosen, apart="documents" in given, watch=watch)
    groups = join(context, chosen)
    engine = real_engine(plan_of(chosen), groups, model, AdamWSettings())
    batch = MicroBatch(given["tokens"], given["targets"], given.get("documents"))
    loss = engine.interpreter.evaluate(lambda _: batch, 1)
    engine.interpreter.close()
    groups.close()
    if seen:
        save_file({"logits": seen[0].contiguous()}, folder / f"logits-{context.rank}.part")
    return {"loss": loss, "head": bool(seen)}


def memory(context: RankContext, spec: dict[str, Any], whole: bool) -> dict[str, int]:
    """Bytes of this rank's memory while it reads its parameters and makes its engine.

    ``before`` is resident when torch is there and the groups are open, ``peak`` at most from
    then on, ``after`` at the end; ``empty`` when the parameters have their place, ``read`` at most
    until they are read into it; ``own`` is the largest while reading when pages that ranks share
    count in parts. ``parameters`` are this rank's.

    Args:
        whole: load all files before the parts are taken, as the obvious way would.
    """
    chosen = folder_spec(spec)
    groups = join(context, chosen)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    model = stage_model(chosen)
    files = sorted(Path(chosen.folder).glob("*.safetensors")) if whole else []
    every = {name: t.clone() for file in files for name, t in load_file(file).items()}
    own: list[int] = []
    found: dict[str, int] = {}
    as_ever = assemble.fill

    def fill(slots: Sequence[Slot], read: ReadParameter) -> None:
        def watched(name: str, shape: tuple[int, ...], box: Box | None) -> torch.Tensor:
            tensor = read(name, shape, box)
            own.append(resident("Pss", "smaps_rollup"))
            return tensor

        found.update(empty=resident("VmRSS"), early=resident("VmHWM"))
        Path("/proc/self/clear_refs").write_text("5")
        as_ever(slots, watched)
        own.append(resident("Pss", "smaps_rollup"))
        found["read"] = resident("VmHWM")

    with patch.object(assemble, "fill", fill):
        engine = real_engine(plan_of(chosen), groups, model, AdamWSettings())
    every.clear()
    peak, after = max(resident("VmHWM"), found.pop("early")), resident("VmRSS")
    parameters = sum(slot.parameter.nbytes for slot in engine.slots)
    engine.interpreter.close()
    groups.close()
    return {
        "before": before,
        **found,
        "own": max(own),
        "peak": peak,
        "after": after,
        "parameters": parameters,
    }


def resident(kind: str, file: str = "status") -> int:
    """Bytes of this process that are in memory: now, at most so far, or in parts (Pss)."""
    for line in Path("/proc/self", file).read_text().splitlines():
        if line.startswith(kind + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(kind)


def folder_spec(spec: dict[str, Any]) -> FolderSpec:
    return FolderSpec(**{**spec, "cuts": tuple(spec["cuts"])})


def stage_model(
    spec: FolderSpec,
    *,
    apart: bool = False,
    watch: Callable[[nn.Module], None] = lambda block: None,
) -> StageModel:
    """The model of a folder; ``watch`` is shown every block."""
    module, sharding, config = (
        model_module(spec.family),
        sharding_module(spec.family),
        spec.config,
    )

    def build(start: int, stop: int) -> Sequence[nn.Module]:
        blocks: list[nn.Module] = module.build_blocks(config, start, stop, absent=True)
        for block in blocks:
            watch(block)
        return blocks

    return StageModel(
        build,
        module.loss,
        sharding.decays,
        sharding.tied_parameters(config),
        partial(module.autocast, "fp32"),
        tensor=sharding.TENSOR_SPLIT,
        read=FolderWeights(Path(spec.folder), weights_module(spec.family).layout(config)).read,
        apart=apart,
    )
