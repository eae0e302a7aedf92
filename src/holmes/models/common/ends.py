"""Both ends of a decoder's chain as Blocks: embedding, and head with its loss. No torch."""

from __future__ import annotations

from holmes.models.common.layer import norm, tensor_sum
from holmes.models.common.shape import DecoderShape
from holmes.workload import Block, Collective, MatrixProduct, Segment

INDEX_BYTES = 8
"""Token ids are int64."""


def embedding_block(shape: DecoderShape) -> Block:
    """Token table, split over the tensor axis by rows, and positions where learned."""
    size = shape.sequence * shape.hidden
    learned = shape.learned_positions
    positions = size if learned else 0
    kept = float(INDEX_BYTES * shape.sequence * (2 if learned and shape.statistics else 1))
    if shape.dropout:
        kept += size
    stream = float(size * shape.widths.stream)
    modes = dict.fromkeys(("none", "selective", "full"), kept)
    return Block(
        name="embedding",
        kind="embedding",
        parameters=shape.vocabulary * shape.hidden + positions,
        tensors=2 if learned else 1,
        inner=(
            Segment("lookup", 0.0, 2 * stream, split=(), kernels=3 if learned else 1),
            Collective("all_reduce", "tensor", stream, "forward"),
        ),
        activation_bytes=modes,
        output_bytes=stream,
        whole_activation_bytes=dict(modes),
        whole_parameters=positions,
    )


def head_block(shape: DecoderShape) -> Block:
    """Norm, logits and cross-entropy.

    The loss keeps the log-softmax in its own width. Plain torch makes two gradients as
    wide in its backward, that of the log-softmax and that of the logits. Megatron-LM's (where
    products are joined) needs less: logits and one copy less their maximum, then in place.
    A compiled loss widens in registers.
    A head split over the tensor axis joins maximum, sum and the target's logit of every token.
    """
    s, h, v = shape.sequence, shape.hidden, shape.vocabulary
    widths, logits = shape.widths, shape.sequence * shape.vocabulary
    product = MatrixProduct(s, v, h, tensor="n")
    ids = float(INDEX_BYTES * s if shape.statistics else 0)
    stream = float(s * h * widths.stream)
    whole = stream + s * h * widths.compute + shape.norm_statistics + ids
    kept = whole + logits * widths.loss
    copy = widths.compute if widths.compute < widths.loss else 0
    passing = widths.loss + copy if shape.joined else 2 * widths.loss
    loss_bytes: tuple[int, int] = (2 * widths.loss + widths.compute, 2 * widths.loss + 2 * copy)
    kernels = 3
    if shape.dropout:
        # Megatron-LM's loss goes step by step: widen, maximum, subtract, exponential, sum,
        # divide; the backward scales twice and narrows.
        loss_bytes = (9 * widths.loss + widths.compute, 5 * widths.loss + copy)
        kernels = 8
    if shape.loss_compiled:
        # Read for the maximum and the sum; the backward reads again and writes the gradient.
        kept, passing = whole + logits * widths.compute, widths.compute
        loss_bytes, kernels = (2 * widths.compute, 2 * widths.compute), 2
    # Framework accounts leave the head out of full recomputation; the plain runtime does not.
    full = stream + ids if shape.statistics and shape.head_again else kept
    return Block(
        name="head",
        kind="head",
        parameters=v * h + shape.norm_parameters,
        tensors=1 + shape.norm_tensors,
        inner=(
            norm(shape, "norm"),
            tensor_sum(shape, entering=True),
            Segment(
                "logits",
                product.flops,
                float((s * h + logits) * widths.compute),
                products=(product,),
                weight_bytes=float(v * h * widths.compute),
            ),
            Segment(
                "loss",
                0.0,
                float(logits * loss_bytes[0]),
                backward_bytes=float(logits * loss_bytes[1]),
                kernels=kernels,
            ),
            *3 * (Collective("all_reduce", "tensor", s * widths.loss, "forward", tokens=False),),
        ),
        activation_bytes={"none": kept, "selective": kept, "full": full},
        output_bytes=float(logits * widths.compute),
        whole_activation_bytes={"none": whole, "selective": whole, "full": min(whole, full)},
        working_bytes=float(logits * passing),
        whole_parameters=shape.norm_parameters,
    )
