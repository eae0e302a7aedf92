"""llm-analysis on rows of runs; runs under its own interpreter, so imports nothing of Holmes.

Standard input: JSON lists ``fitted`` and ``scored`` of rows. Its one free number, the share of the
peak that products reach, is the one that fits ``fitted`` best, as Holmes' coefficients are.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from importlib.metadata import version
from statistics import fmean, median
from typing import Any

from llm_analysis.analysis import ActivationRecomputation, LLMAnalysis
from llm_analysis.config import (
    ModelConfig,
    ParallelismConfig,
    get_dtype_config_by_name,
    get_gpu_config_by_name,
)

EFFICIENCIES = [share / 20 for share in range(2, 21)]
MEMORY_EFFICIENCY = 0.9


def seconds(row: dict[str, Any], efficiency: float) -> float:
    """Predicted seconds of one step."""
    model = ModelConfig(
        name="model",
        num_layers=row["layers"],
        n_head=row["heads"],
        hidden_dim=row["hidden"],
        vocab_size=row["vocabulary"],
        max_seq_len=row["sequence"],
    )
    tool = LLMAnalysis(
        model,
        get_gpu_config_by_name("a100-sxm-80gb"),
        get_dtype_config_by_name("w16a16e16"),
        ParallelismConfig(tp_size=row["tp"], pp_size=row["pp"], dp_size=row["dp"]),
        flops_efficiency=efficiency,
        hbm_memory_efficiency=MEMORY_EFFICIENCY,
    )
    full = row["recompute"] == "full"
    found = tool.training(
        batch_size_per_gpu=row["micro"],
        global_batch_size=row["global_batch"],
        seq_len=row["sequence"],
        activation_recomputation=ActivationRecomputation.FULL
        if full
        else ActivationRecomputation.NONE,
        flash_attn=False,
        softmax_dropout=True,
    )
    return float(found["latency_per_iter"])


def errors(rows: list[dict[str, Any]], efficiency: float) -> list[float]:
    """(predicted - measured) / measured."""
    return [seconds(row, efficiency) / row["seconds"] - 1 for row in rows]


def mape(found: list[float]) -> float:
    """Mean absolute error."""
    return fmean(abs(error) for error in found)


def main() -> None:
    logging.disable(logging.CRITICAL)
    asked = json.load(sys.stdin)
    best = min(EFFICIENCIES, key=lambda share: mape(errors(asked["fitted"], share)))
    start = time.process_time()
    found = errors(asked["scored"], best)
    spent = time.process_time() - start
    print(
        json.dumps(
            {
                "tool": f"llm-analysis {version('llm-analysis')}",
                "efficiency": best,
                "n": len(found),
                "mape": mape(found),
                "median_ape": median(abs(error) for error in found),
                "bias": fmean(found),
                "layouts_per_cpu_second": len(found) / spent,
            }
        )
    )


if __name__ == "__main__":
    main()
