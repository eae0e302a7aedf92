"""FLOPs of one sample as papers count them, for rows that state only TFLOP/s."""

from __future__ import annotations

from holmes.accuracy.case_model import is_gated, workload_of
from holmes.accuracy.table import Case


def flops_per_sample(case: Case, *, hardware: bool) -> float:
    """Megatron-LM's closed form (Narayanan et al. 2021, appendix), per sequence; of a gated
    model, which has other products, what its blocks do, attention over the full square.

    Args:
        hardware: count what recomputation repeats, 96 s l h^2 (1 + s/(6h) + V/(16 l h)),
            as older papers do; otherwise the model's own 72 s l h^2 (1 + s/(6h) + V/(12 l h)).
    """
    if is_gated(case):
        work = workload_of(case)
        again = work.flops_recomputed(case.recompute or "none") if hardware else 0.0
        return work.flops_per_sample() + again
    s, h, layers = case.sequence, case.hidden, case.layers
    vocabulary = case.vocabulary / (layers * h)
    if hardware:
        return 96.0 * s * layers * h * h * (1 + s / (6 * h) + vocabulary / 16)
    return 72.0 * s * layers * h * h * (1 + s / (6 * h) + vocabulary / 12)
