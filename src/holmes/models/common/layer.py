"""One transformer layer of a decoder as a Block: its inner program in forward order. No torch.

FLOPs are those of matrix products, attention over the full square (a causal kernel may
do half). Bytes of a segment are the activations it reads and writes for one sample;
weights are apart, since a micro-batch reads them once. A collective of the backward
stands where its forward twin (the identity) is: at the input of a product that is
split by columns.
"""

from __future__ import annotations

from dataclasses import replace

from holmes.models.common.kept import layer_kept, repeated_shares
from holmes.models.common.shape import DecoderShape
from holmes.workload import AttentionCore, Block, Collective, MatrixProduct, Segment

Program = list[Segment | Collective]

RMS_KERNELS = 8
"""Of an RMSNorm in single operations: widen, square, mean, epsilon, root, scale, narrow, weight."""


def layer_block(shape: DecoderShape) -> Block:
    """A layer whose name is still to be given."""
    kept, whole = layer_kept(shape)
    repeated = repeated_shares(shape)
    program = [*_attention(shape), *(_experts(shape) if shape.experts else _mlp(shape))]
    inner = tuple(
        replace(part, selective=repeated.get(part.name, 0.0)) if isinstance(part, Segment) else part
        for part in program
    )
    h, q, f, up = shape.hidden, shape.query_width, shape.inner, shape.matrices_up
    attention = h * (q + 2 * shape.key_width) + q * h
    mlp = (up + 1) * h * f
    experts = shape.experts * mlp
    router = h * shape.experts
    qkv_biases = q + 2 * shape.key_width if shape.bias or shape.qkv_bias else 0
    column_biases = qkv_biases + (up * f if shape.bias else 0)
    row_biases = 2 * h if shape.bias else 0
    norms = 2 * shape.norm_parameters + (2 * shape.head_size if shape.qk_norm else 0)
    linears = 4 + (1 + shape.experts * (up + 1) if shape.experts else up + 1)
    return Block(
        name="layer",
        kind="transformer",
        parameters=attention + (experts + router or mlp) + column_biases + row_biases + norms,
        tensors=linears * (2 if shape.bias else 1)
        + 2 * shape.norm_tensors
        + (3 if shape.qkv_bias else 0)
        + (2 if shape.qk_norm else 0),
        inner=inner,
        activation_bytes=kept,
        output_bytes=float(shape.sequence * h * shape.widths.stream),
        whole_activation_bytes=whole,
        whole_parameters=row_biases + norms + router,
        expert_parameters=experts,
        dispatched_bytes=float(shape.top_k * shape.sequence * h * shape.widths.compute),
    )


def tensor_sum(shape: DecoderShape, entering: bool) -> Collective:
    """The all-reduce of a layer's activation, where it enters or leaves split products."""
    size = float(shape.sequence * shape.hidden * shape.widths.compute)
    return Collective("all_reduce", "tensor", size, "backward" if entering else "forward")


def norm(shape: DecoderShape, name: str) -> Segment:
    """Reads and writes the stream; the backward reads input and gradient, writes one.

    An RMSNorm in single operations computes in the loss's width (ATen's rms_norm before PyTorch
    had a fused one): widen, square and average, scale, narrow, times the weight; and back.
    """
    size, narrow, wide = shape.sequence * shape.hidden, shape.widths.stream, shape.widths.loss
    stream = float(size * narrow)
    if not shape.stepwise or shape.layernorm:
        return Segment(name, 0.0, 2 * stream, split=(), backward_bytes=3 * stream)
    forward, backward = 4 * narrow + 7 * wide, 8 * narrow + 15 * wide
    return Segment(
        name,
        0.0,
        float(size * forward),
        split=(),
        backward_bytes=float(size * backward),
        kernels=RMS_KERNELS,
    )


def _attention(shape: DecoderShape) -> Program:
    s, h, c = shape.sequence, shape.hidden, shape.widths.compute
    q, keys = shape.query_width, shape.key_width
    outputs = q + 2 * keys
    widths = (outputs,) if shape.joined else (q, keys, keys)
    products = tuple(MatrixProduct(s, n, h, tensor="n") for n in widths)
    output = MatrixProduct(s, h, q, tensor="k")
    rotated = 2.0 * s * (q + keys) * c
    normed = Segment("qk_norm", 0.0, rotated, backward_bytes=1.5 * rotated, kernels=2)
    rotary = Segment("rotary", 0.0, rotated, backward_bytes=rotated, kernels=10)
    if (
        shape.stepwise
    ):  # widen, turn, narrow; and keys and values repeated for heads that share them
        steps = 2.0 * s * (q + keys) * (c + 2 * shape.widths.loss)
        steps += 2.0 * s * q * c if keys < q else 0.0
        rotary = replace(rotary, bytes_=steps, backward_bytes=steps)
    return [
        norm(shape, "norm1"),
        tensor_sum(shape, entering=True),
        Segment(
            "query_key_value",
            2.0 * s * h * outputs,
            float(s * (h + outputs) * c),
            products=products,
            weight_bytes=float(h * outputs * c),
            kernels=len(products),
        ),
        *([normed] if shape.qk_norm else []),
        *([] if shape.learned_positions else [rotary]),
        # Each rank's keys and values go round; in the backward their gradients with them.
        Collective("ring", "context", 2.0 * s * keys * c, "forward", split=("tensor",)),
        Collective("ring", "context", 4.0 * s * keys * c, "backward", split=("tensor",)),
        _core(shape),
        Segment(
            "attention_output",
            output.flops,
            float(s * (q + h) * c),
            products=(output,),
            weight_bytes=float(h * q * c),
        ),
        tensor_sum(shape, entering=False),
        _residual(shape, "residual1"),
    ]


def _core(shape: DecoderShape) -> Segment:
    """The attention core; an unfused one passes its scores through memory between kernels.

    Forward: written by the product, read and written by mask and softmax, with dropout
    read and written again with a mask, read by the product with the values. Backward: the
    gradient of the scores likewise, beside what was kept. A mask apart from the softmax reads
    and writes once more.
    """
    s, c, heads = shape.sequence, shape.widths.compute, shape.heads
    core = AttentionCore(
        heads, shape.key_heads, s, s, shape.head_size, fused=shape.attention == "fused"
    )
    products = core.products()
    ends = 2.0 * s * (shape.query_width + shape.key_width) * c
    flops = sum(product.flops for product in products)
    if core.fused:
        return Segment("attention", flops, ends, attention=core, backward_bytes=2 * ends)
    mask = 2 * c + 1 if shape.dropout else 0
    mask += 2 * c if shape.masks_apart else 0
    scores = float(heads * s * s)
    return Segment(
        "attention",
        flops,
        ends + (4 * c + mask) * scores,
        products=products,
        attention=core,
        backward_bytes=2 * ends + (7 * c + mask) * scores,
        kernels=3 + shape.dropout + shape.masks_apart,
    )


def _residual(shape: DecoderShape, name: str) -> Segment:
    """The branch added to the stream, behind dropout where there is one."""
    size = shape.sequence * shape.hidden
    stream, branch = size * shape.widths.stream, size * shape.widths.compute
    masked = 2 * branch + size if shape.dropout else 0
    return Segment(
        name, 0.0, float(2 * stream + branch), split=(), backward_bytes=float(3 * stream + masked)
    )


def _mlp(shape: DecoderShape) -> Program:
    return [
        norm(shape, "norm2"),
        tensor_sum(shape, entering=True),
        *_matrices(shape, shape.sequence),
        tensor_sum(shape, entering=False),
        _residual(shape, "residual2"),
    ]


def _matrices(shape: DecoderShape, tokens: int) -> Program:
    """Up, non-linearity and down over ``tokens``; experts take equal parts of them.

    Unequal parts are the rule; then the slowest rank takes longer than described.
    """
    h, f, c = shape.hidden, shape.inner, shape.widths.compute
    up, count = shape.matrices_up, shape.experts or 1
    each = -(-tokens // count)
    widths = (up * f,) if shape.joined else (f,) * up
    ups = tuple(MatrixProduct(each, n, h, count, tensor="n", experts=count > 1) for n in widths)
    down = MatrixProduct(each, h, f, count, tensor="k", experts=count > 1)
    inner = float(tokens * f * c)
    # One kernel, or silu and product apart.
    gating = (5, 9) if shape.stepwise and shape.gated else (up + 1, 2 * up + 1)
    return [
        Segment(
            "mlp_up",
            2.0 * up * tokens * h * f,
            tokens * h * c + up * inner,
            products=ups,
            weight_bytes=float(count * up * h * f * c),
            kernels=count * len(ups),
        ),
        Segment(
            "mlp_activation",
            0.0,
            gating[0] * inner,
            backward_bytes=gating[1] * inner,
            kernels=up,
        ),
        Segment(
            "mlp_down",
            2.0 * tokens * h * f,
            inner + tokens * h * c,
            products=(down,),
            weight_bytes=float(count * h * f * c),
            kernels=count,
        ),
    ]


def _experts(shape: DecoderShape) -> Program:
    """Router, then each token to ``top_k`` experts and back (Shazeer et al. 2017).

    Who gets how many tokens depends on the data. The exchanged bytes are the most a rank
    can send, as if all its tokens went to other ranks; an even choice sends (n-1)/n. Each
    tensor rank sends tokens whole; combining is linear, so their sum comes after it.
    """
    s, h, c = shape.sequence, shape.hidden, shape.widths.compute
    router = MatrixProduct(s, shape.experts, h)
    sent = float(shape.top_k * s * h * c)
    forward, backward = (
        Collective("all_to_all", "expert", sent, way, bound=True) for way in ("forward", "backward")
    )
    moved = s * h * c + sent
    return [
        norm(shape, "norm2"),
        Segment(
            "router",
            router.flops,
            float(s * (h + 3 * shape.experts) * c),
            split=(),
            products=(router,),
            weight_bytes=float(h * shape.experts * c),
            kernels=3,
        ),
        tensor_sum(shape, entering=True),
        Segment("dispatch", 0.0, moved, split=(), backward_bytes=moved, kernels=2),
        forward,
        backward,
        *_matrices(shape, shape.top_k * s),
        forward,
        backward,
        Segment("combine", 0.0, moved, split=(), backward_bytes=2 * moved, kernels=2),
        tensor_sum(shape, entering=False),
        _residual(shape, "residual2"),
    ]
