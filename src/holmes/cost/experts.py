"""Seconds of the exchanges that bring tokens to experts on other ranks, and back.

Each of n neighbouring replicas holds 1/n of the experts of every layer whole. Its tokens go
to their experts and return, forward and backward (Lepikhin et al. 2020, GShard; Fedus et al.
2021, Switch Transformers). Every expert takes as many tokens as every other, so that (n-1)/n of
them leave a rank and its products are those of one rank with all experts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holmes.plan.layout import Recompute
from holmes.workload.workload import Block

Seconds = Callable[[Any], Any]
"""Of an all-to-all among the expert ranks by the bytes that each member has to hand out: a
number, or an array of many."""


def exchange_seconds(
    block: Block, micro: Any, cp: int, seconds: Seconds, recompute: Recompute
) -> tuple[Any, Any]:
    """(forward, backward) that tokens of ``micro`` samples are on their way, none hidden.

    Args:
        block: of the whole sample.
    """
    forward = backward = 0.0 * micro
    for part, times in block.expert_program(recompute):
        once = seconds(part.bytes_on_rank(cp=cp) * micro)
        if part.direction == "forward":
            forward, backward = forward + once, backward + (times - 1) * once
        else:
            backward = backward + times * once
    return forward, backward
