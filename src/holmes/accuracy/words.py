"""Words of published tables for what the project calls by one name each."""

from __future__ import annotations

import re

from holmes.plan.layout import Recompute, ScheduleName, Sharding

RECOMPUTE: dict[str, Recompute | None] = {
    "": None,
    "unknown": None,
    "none": "none",
    "no": "none",
    "off": "none",
    "0": "none",
    "false": "none",
    "selective": "selective",
    "full": "full",
    "yes": "full",
    "on": "full",
    "1": "full",
    "true": "full",
}
SHARDING: dict[str, Sharding] = {
    "": "none",
    "none": "none",
    "no": "none",
    "0": "none",
    "ddp": "none",
    "zero0": "none",
    "optimizer": "optimizer",
    "distributedoptimizer": "optimizer",
    "1": "optimizer",
    "zero1": "optimizer",
    "gradients": "gradients",
    "2": "gradients",
    "zero2": "gradients",
    "parameters": "parameters",
    "3": "parameters",
    "zero3": "parameters",
    "fsdp": "parameters",
    "fsdp2": "parameters",
    "hybrid": "hybrid",
    "hsdp": "hybrid",
    "threelevel": "three-level",
}
SCHEDULE: dict[str, ScheduleName] = {
    "1f1b": "1f1b",
    "gpipe": "gpipe",
    "interleaved": "interleaved",
    "interleaved1f1b": "interleaved",
    "1f1binterleaved": "interleaved",
    "zerobubble": "zero-bubble",
    "zb": "zero-bubble",
    "zbh1": "zero-bubble",
    "loopedbfs": "looped-bfs",
}
SINGLE = frozenset({"fp32", "tf32", "float32"})
"""Precisions that are no half-precision mixed training."""

EIGHT_BITS = ("fp8", "float8", "mxfp8", "ampfp8")
"""Words with which precisions begin whose products are in eight bits."""
HALVES = frozenset(
    {"mixed", "bf16", "fp16", "bfloat16", "float16", "half", "ampbf16", "ampfp16", "bf16mixed"}
    | {"fp16mixed", "16", "16mixed", "amp", "torchbfloat16", "torchfloat16", "fp16fp32", "bf16fp32"}
)


def precision_known(text: str) -> bool:
    """Whether a precision is one that is priced."""
    word = key(text)
    return word in SINGLE | HALVES or word.startswith(EIGHT_BITS)


def key(text: str) -> str:
    """A word without case, spaces and signs."""
    return re.sub(r"[^a-z0-9]", "", text.lower())
