"""Reading a model of about 2 GB on four ranks: how much memory does the reading itself take?

Two tensor ranks in each of two stages read a Llama that is written in files of half a
gigabyte. The figure is a rank's peak until its parameters are read, above what torch took before
and above its share, which is its parameters alone. The baseline has all tensors in the memory of
every rank, which takes its part of them. Two more figures, for each rank: the same with torch and
all else counted, shared pages in parts; and how far the peak of the whole start lies above what
training keeps (gradients and both moments, too).

Run it as `PYTHONPATH=. python benchmarks/weights.py`, since it shares the tests' ranks.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.models.hf.ranks import FolderSpec

import record
from holmes.launch.pool import Pool
from holmes.models.llama.config import LlamaConfig
from holmes.models.llama.weights import folder_config, layout
from holmes.models.registry import model_module

RANKS = 4
CONFIG = LlamaConfig(24, 1280, 20, 64, 32003, key_heads=4, ffn=3456)
FILE_BYTES = 512 << 20
COPIES = 4
"""Parameters, gradients and two moments, of one width."""
BOUND = 300e6
"""Bytes that a rank may take above its share."""


def write_model(folder: Path, config: LlamaConfig) -> int:
    """Files of random tensors in fp32, one block in memory at a time; their bytes."""
    family = model_module("llama")
    names = layout(config)
    places: dict[str, str] = {}
    waiting: dict[str, torch.Tensor] = {}
    total = 0

    def flush() -> None:
        name = f"model-{len(set(places.values())):05d}.safetensors"
        places.update(dict.fromkeys(waiting, name))
        save_file(waiting, folder / name)
        waiting.clear()

    for index in range(config.blocks):
        blocks = family.build_blocks(config, index, index + 1)
        for ours, parameter in family.named_parameters(blocks, index):
            waiting[names.stored_name(names.sources[ours])] = parameter.detach()
            total += parameter.nbytes
        if sum(tensor.nbytes for tensor in waiting.values()) > FILE_BYTES:
            flush()
    flush()
    (folder / "config.json").write_text(json.dumps(folder_config(config)))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return total


def measure(folder: Path, logs: Path, *, whole: bool) -> list[dict[str, int]]:
    """What each rank says of its memory; the ranks are new ones."""
    spec = FolderSpec(tp=2, pp=2, layers=CONFIG.layers, family="llama", micro=1, folder=str(folder))
    with Pool(RANKS, log_dir=logs) as pool:
        found: list[dict[str, int]] = pool.run(
            "tests.models.hf.ranks:memory",
            {"spec": asdict(spec), "whole": whole},
            deadline_seconds=300,
        )
    return found


def excess(rank: dict[str, int]) -> dict[str, int]:
    """Bytes above a rank's share: while reading, with everything counted, of the whole start."""
    share = rank["parameters"]
    return {
        "reading": rank["read"] - rank["before"] - share,
        "reading_with_all": rank["own"] - share,
        "start": rank["peak"] - rank["before"] - COPIES * share,
    }


def figures() -> dict[str, Any]:
    """The record."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        bytes_ = write_model(folder, CONFIG)
        arms = {
            name: measure(folder, Path(place) / name, whole=name == "whole")
            for name in ("slices", "whole")
        }
    above = {name: [excess(rank) for rank in found] for name, found in arms.items()}
    worst = {
        name: {kind: max(rank[kind] for rank in ranks) for kind in ranks[0]}
        for name, ranks in above.items()
    }
    return {
        "headline": record.headline(
            "bytes of a rank's peak while reading, above its parameters",
            "all tensors in the memory of every rank",
            {
                **record.spread([float(rank["reading"]) for rank in above["slices"]]),
                "pairs": RANKS,
            },
        ),
        "model_bytes": bytes_,
        "sizes": f"Llama {CONFIG.layers} x {CONFIG.hidden}, fp32, tp 2 x pp 2",
        "bound_bytes": BOUND,
        "within": max(worst["slices"].values()) <= BOUND,
        "worst": worst,
        "ranks": arms,
    }


if __name__ == "__main__":
    record.write(Path(__file__).stem, record.with_drift(figures))
