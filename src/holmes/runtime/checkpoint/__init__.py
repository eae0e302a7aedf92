"""Checkpoints: a folder per step, safetensors and a JSON manifest, committed last."""

from holmes.runtime.checkpoint.folders import (
    checkpoint_folder,
    committed,
    latest_committed,
    prune,
    sweep,
)
from holmes.runtime.checkpoint.manifest import Manifest, Piece, Shard, TensorEntry
from holmes.runtime.checkpoint.read import (
    Checkpoint,
    latest_good,
    read_checkpoint,
    verify_checkpoint,
)
from holmes.runtime.checkpoint.write import write_checkpoint

__all__ = [
    "Checkpoint",
    "Manifest",
    "Piece",
    "Shard",
    "TensorEntry",
    "checkpoint_folder",
    "committed",
    "latest_committed",
    "latest_good",
    "prune",
    "read_checkpoint",
    "sweep",
    "verify_checkpoint",
    "write_checkpoint",
]
