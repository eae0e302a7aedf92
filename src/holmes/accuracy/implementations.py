"""How published training code runs a model, where its tables do not say: read in the code."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from holmes.models.common.shape import DecoderShape
from holmes.workload.workload import Segment, Workload


@dataclass(frozen=True)
class Implementation:
    """What the code of some runs does that others do not.

    Attributes:
        precision: of everything, where a row states none; None: half-precision mixed training.
        masks_apart: attention masks its scores in a kernel of its own, before the softmax.
        dropout: on scores and branches.
        headless: parts of model names whose loss is taken of the last norm's output, without a
            product with the token table.
        copies_tokens: what tensor ranks gather is copied into the order of tokens.
        stops_early: full recomputation ends before the last product of a block.
        gathers_once: with a pipeline, fully sharded parameters are gathered once a step, and their
            gradients reduced once.
        splits_by_stages: by default a replica's batch is as many micro-batches as pipeline ranks.
        compiles_loss: where the model is compiled, the loss is, too.
    """

    precision: str | None = None
    masks_apart: bool = False
    dropout: bool = True
    headless: tuple[str, ...] = ()
    copies_tokens: bool = False
    stops_early: bool = False
    gathers_once: bool = False
    splits_by_stages: bool = False
    compiles_loss: bool = False


PLAIN = Implementation()
"""Megatron-LM's: its fused softmax masks, too."""
TITAN = Implementation(
    copies_tokens=True, stops_early=True, gathers_once=True, splits_by_stages=True
)
IMPLEMENTATIONS = (
    # third_party/Megatron-DeepSpeed/megatron/model/gpt_neo_model.py of eth-easl/sailor: the core
    # applies no dropout, the last specs of the pipeline are norm and loss. Precision is an option
    # whose default is fp32, in which Megatron's fused softmax does not run (fused_softmax.py:
    # is_kernel_available); the peak memory of the runs is that of fp32, and half of it in half
    # precision. Its container (nvcr.io/nvidia/pytorch) lets products run in TF32.
    ("sailor", 0, Implementation("fp32", masks_apart=True, dropout=False, headless=("neo",))),
    # pytorch/torchtitan#1033 (April 2025) compiles the loss with the model; #755 (December 2024)
    # had turned that off. Tokens are the second dimension, along which PyTorch's functional
    # collectives gather and scatter by a chunk and a cat
    # (torch/distributed/_functional_collectives.py). Its checkpoints are PyTorch's that stop early
    # (torch/utils/checkpoint.py). With a pipeline, layers are not sharded again
    # after the forward (fsdp_reshard_after_forward, "default"), and its stages reduce gradients
    # after their last backward (torch/distributed/pipelining/stage.py).
    # A replica's batch was divided among pipeline ranks (pipeline_parallel_microbatches, 2024).
    ("torchtitan", 202504, replace(TITAN, compiles_loss=True, splits_by_stages=False)),
    ("torchtitan", 0, TITAN),
)
"""(word, year and month since when, what the code does)"""
MONTH = re.compile(r"(20\d\d)-?(0[1-9]|1[0-2])")


def implementation_of(source: str) -> Implementation:
    """By the words with which a row names its software or where it comes from; what came later
    holds where a month is among them."""
    found = MONTH.search(source)
    month = int(found[1] + found[2]) if found else 0
    named = (
        made for word, since, made in IMPLEMENTATIONS if word in source.lower() and month >= since
    )
    return next(named, PLAIN)


def shape_as_run(shape: DecoderShape, made: Implementation) -> DecoderShape:
    """A shape as the code runs it; its precision is the row's."""
    unfused = shape.attention == "unfused"
    return replace(
        shape,
        masks_apart=made.masks_apart and unfused,
        dropout=shape.dropout and made.dropout,
        loss_compiled=shape.compiled and made.compiles_loss,
    )


def without_head(workload: Workload, shape: DecoderShape) -> Workload:
    """The model with a loss over the last norm's features instead of a token's logits."""
    *before, head = workload.blocks
    features = shape.hidden / shape.vocabulary
    segments = {part.name: part for part in head.inner if isinstance(part, Segment)}
    loss = segments["loss"]
    loss = replace(
        loss,
        bytes_=loss.bytes_ * features,
        backward_bytes=None if loss.backward_bytes is None else loss.backward_bytes * features,
        split=(),
    )
    logits = float(shape.sequence * shape.vocabulary * shape.widths.loss)
    whole = {
        mode: bytes_ + logits * features for mode, bytes_ in head.whole_activation_bytes.items()
    }
    short = replace(
        head,
        parameters=head.whole_parameters,
        tensors=shape.norm_tensors,
        inner=(segments["norm"], loss),
        activation_bytes=whole,
        whole_activation_bytes=whole,
        output_bytes=head.output_bytes * features,
        working_bytes=head.working_bytes * features,
    )
    return replace(workload, blocks=(*before, short), tied=None, tied_parameters=0)
