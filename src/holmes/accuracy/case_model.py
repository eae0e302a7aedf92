"""The model of a case as a Workload, from the sizes in its row and published shapes by name."""

from __future__ import annotations

from dataclasses import replace

from holmes.accuracy.implementations import implementation_of, shape_as_run, without_head
from holmes.accuracy.published import Published, published_of
from holmes.accuracy.table import Case
from holmes.accuracy.words import EIGHT_BITS, SINGLE, key
from holmes.models.common.describe import decoder_workload
from holmes.models.common.shape import DecoderShape
from holmes.workload.workload import Workload

PADDED_TO = 128
"""Rows of the token table per tensor rank, as Megatron-LM pads them. Runs that do not name it are
taken to pad only where tensor ranks divide the table."""
GATED = (
    *("llama", "mistral", "qwen", "mixtral", "deepseek", "gemma", "olmo", "internlm"),
    *("baichuan", "granite", "phi-3"),
)
"""Families with gated MLPs, rotary positions, no biases, an own head, and fused attention."""
FP8_BYTES = 1
FUSING = ("megatron", "nemo", "transformer engine", "mcore")
"""Words of software with own kernels for RMSNorm, rotation and gating (Transformer Engine)."""


def workload_of(case: Case) -> Workload:
    """What the case's model costs.

    GPTs are counted as Megatron-LM ran them: unfused attention with dropout (fused where the
    row says so), a tied and padded token table; or as their own code does, where it is known.
    An fp8 run computes its products in fp8 and keeps bf16 activations.
    """
    gated = is_gated(case)
    if not gated:
        published_of(case)  # refuses what would be taken for another model
    shape = _gated(case) if gated else _gpt(case)
    made = implementation_of(case.software)
    if key(case.precision) in SINGLE:
        shape = replace(shape, precision="fp32")
    shape = shape_as_run(shape, made)
    found = decoder_workload(shape, "llama" if gated else "gpt", case.model)
    if any(name in case.model.lower() for name in made.headless):
        found = without_head(found, shape)
    if key(case.precision).startswith(EIGHT_BITS):
        found = replace(found, compute_bytes=FP8_BYTES)
    return found


def is_gated(case: Case) -> bool:
    """Whether the model's name is of a family with gated MLPs."""
    return any(name in case.model.lower() for name in GATED)


def fuses(case: Case) -> bool:
    """Whether the case's software is named as one with own kernels (see ``FUSING``)."""
    return any(word in case.software.lower() for word in FUSING)


def _gpt(case: Case) -> DecoderShape:
    padded = PADDED_TO * case.tp if case.tp > 1 or "megatron" in case.framework.lower() else 1
    return DecoderShape(
        layers=case.layers,
        hidden=case.hidden,
        heads=case.heads,
        key_heads=case.heads,
        sequence=case.sequence,
        vocabulary=-(-case.vocabulary // padded) * padded,
        inner=4 * case.hidden,
        gated=False,
        learned_positions=True,
        tied=True,
        bias=True,
        layernorm=True,
        attention="fused" if case.flash_attention else "unfused",
        precision="mixed",
        dropout=True,
        statistics=False,
        joined=True,
        core_again=True,
    )


def _gated(case: Case) -> DecoderShape:
    known = published_of(case) or Published(_inner_of(case), case.heads, case.vocabulary)
    return DecoderShape(
        layers=case.layers,
        hidden=case.hidden,
        heads=case.heads,
        key_heads=known.key_heads,
        sequence=case.sequence,
        vocabulary=known.vocabulary,
        inner=known.inner,
        gated=True,
        learned_positions=False,
        tied=False,
        bias=False,
        layernorm=False,
        attention="fused",
        precision="mixed",
        compiled=case.compiled,
        stepwise=not case.compiled and not fuses(case),
        core_again=fuses(case),
        head_again=False,
        experts=known.experts,
        top_k=known.top_k,
    )


def _inner_of(case: Case) -> int:
    """The MLP width that makes up the stated size, or 8/3 of the hidden size."""
    h = case.hidden
    if case.parameters_b is None:
        return -(-8 * h // 3 // 64) * 64
    rest = case.parameters_b * 1e9 - 2 * case.vocabulary * h - case.layers * 4 * h * h
    return max(64, round(rest / (3 * h * case.layers) / 64) * 64)
