"""What torch itself counts: FLOPs on the meta device, tensors that autograd keeps."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from holmes.models.registry import model_module

PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
CORES = (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,)


def counted_flops(family: str, config: Any) -> tuple[int, int]:
    """(forward, backward) FLOPs of one sample of the whole model."""
    module = model_module(family)
    blocks = module.build_blocks(config, 0, config.blocks, device="meta")
    ids = torch.zeros(1, config.sequence, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as forward:
        x = ids
        for block in blocks:
            x = block(x)
        value = module.loss(x, ids)
    with FlopCounterMode(display=False) as backward:
        value.backward()
    return forward.get_total_flops(), backward.get_total_flops()


def kept_bytes(family: str, config: Any, index: int, samples: int, precision: str) -> int:
    """Bytes of distinct storages that autograd keeps for one block, parameters left out."""
    module = model_module(family)
    dtype = torch.float64 if precision == "fp64" else torch.float32
    block = module.build_blocks(config, index, index + 1, dtype=dtype)[0]
    # Whatever belongs to the block and not to the sample: parameters, tables of angles.
    own = {t.untyped_storage().data_ptr() for t in (*block.parameters(), *block.buffers())}
    weights = {tuple(p.shape) for p in block.parameters() if p.dim() > 1}
    weights |= {shape[::-1] for shape in weights}
    ids = torch.zeros(samples, config.sequence, dtype=torch.long)
    stream = torch.randn(samples, config.sequence, config.hidden, dtype=dtype, requires_grad=True)
    seen: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own and tuple(tensor.shape) not in weights:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, module.autocast(precision):
        value = block(ids if index == 0 else stream)
        if index == config.blocks - 1:
            value = module.loss(value, ids)
    assert value.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors made under it and still alive, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = WeakIdKeyDictionary()
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.live[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self.live.values()))
        return results


def peak_of_head(family: str, config: Any, samples: int, precision: str) -> int:
    """Most bytes alive in forward and backward of the last block and its loss."""
    module = model_module(family)
    (head,) = module.build_blocks(config, config.blocks - 1, config.blocks)
    stream = torch.randn(samples, config.sequence, config.hidden, requires_grad=True)
    ids = torch.zeros(samples, config.sequence, dtype=torch.long)
    with LiveBytes() as alive:
        with module.autocast(precision):
            value = module.loss(head(stream), ids)
        value.backward()
    return alive.peak


def selective_bytes_and_flops(family: str, config: Any) -> tuple[int, int]:
    """(kept bytes, repeated FLOPs) of one layer and sample, in fp32, when torch's own
    checkpointing keeps the core's results and every second matrix product."""
    module = model_module(family)
    (block,) = module.build_blocks(config, 1, 2)
    stream = torch.randn(1, config.sequence, config.hidden, requires_grad=True)
    kept: list[int] = [stream.nbytes]
    turn = 0

    def policy(context: Any, op: Any, *args: Any, weigh: bool, **kwargs: Any) -> CheckpointPolicy:
        nonlocal turn
        turn += op in PRODUCTS
        if op not in CORES and not (op in PRODUCTS and turn % 2):
            return CheckpointPolicy.PREFER_RECOMPUTE
        if weigh:
            kept.append(_result_bytes(op, args, kwargs))
        return CheckpointPolicy.MUST_SAVE

    def checkpointed(weigh: bool) -> torch.Tensor:
        nonlocal turn
        turn = 0
        contexts = partial(create_selective_checkpoint_contexts, partial(policy, weigh=weigh))
        out = checkpoint(block, stream, use_reentrant=False, context_fn=contexts)
        assert isinstance(out, torch.Tensor)
        return out

    checkpointed(weigh=True)
    totals = []
    for run in (lambda: checkpointed(weigh=False), lambda: block(stream)):
        with FlopCounterMode(display=False) as counter:
            run().sum().backward()
        totals.append(counter.get_total_flops())
    return sum(kept), totals[0] - totals[1]


def _result_bytes(op: Any, args: Any, kwargs: Any) -> int:
    with torch.no_grad():
        results = op(*args, **kwargs)
    several = results if isinstance(results, tuple) else (results,)
    return sum(result.nbytes for result in several if isinstance(result, torch.Tensor))
