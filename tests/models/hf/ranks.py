"""What ranks run in the tests of this folder."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

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
from holmes.runtime.pipeline.assemble import StageModel, real_engine
from holmes.runtime.pipeline.stage import MicroBatch
from holmes.runtime.sharding.bucket_state import AdamWSettings
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
    """This rank's share of the logits of ``tokens.safetensors``, written beside it.

    Where the spec's loss counts documents, they are in that file too.
    """
    chosen = FolderSpec(**{**spec, "cuts": tuple(spec["cuts"])})
    config, family = chosen.config, chosen.family
    module, sharding = model_module(family), sharding_module(family)
    folder = Path(chosen.folder)
    given = load_file(folder / "tokens.ids")
    seen: list[torch.Tensor] = []

    def build(start: int, stop: int) -> Sequence[nn.Module]:
        blocks: list[nn.Module] = module.build_blocks(config, start, stop, absent=True)
        for block in blocks:
            if hasattr(block, "projection"):
                block.projection.register_forward_hook(lambda *given: seen.append(given[2]))
        return blocks

    model = StageModel(
        build,
        module.loss,
        sharding.decays,
        sharding.tied_parameters(config),
        partial(module.autocast, "fp32"),
        tensor=sharding.TENSOR_SPLIT,
        read=FolderWeights(folder, weights_module(family).layout(config)).read,
        apart="documents" in given,
    )
    groups = join(context, chosen)
    engine = real_engine(plan_of(chosen), groups, model, AdamWSettings())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batch = MicroBatch(given["tokens"], given["tokens"], given.get("documents"))
    loss = engine.interpreter.evaluate(lambda _: batch, 1)
    engine.interpreter.close()
    groups.close()
    if seen:
        save_file({"logits": seen[0].contiguous()}, folder / f"logits-{context.rank}.part")
    return {"loss": loss, "head": bool(seen), "peak": peak}
