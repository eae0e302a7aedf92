"""Small folders that `transformers` wrote, of every architecture that is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

ODD = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 92,
    "vocab_size": 101,
    "max_position_embeddings": 24,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 50.0,
    "factor": 4.0,
    "original_max_position_embeddings": 22,
}
CONFIGS: dict[str, Any] = {
    "gpt2": GPT2Config(n_embd=36, n_layer=3, n_head=6, n_positions=24, vocab_size=101, n_inner=52),
    "gpt2-untied": GPT2Config(
        n_embd=24,
        n_layer=2,
        n_head=2,
        n_positions=24,
        vocab_size=67,
        activation_function="gelu",
        layer_norm_epsilon=1e-4,
        tie_word_embeddings=False,
    ),
    "llama": LlamaConfig(**ODD),
    "llama-tied": LlamaConfig(**{**ODD, "num_key_value_heads": 6}, tie_word_embeddings=True),
    "llama-llama3": LlamaConfig(**ODD, rope_parameters=LLAMA3),
    "llama-linear": LlamaConfig(
        **ODD, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
    ),
    "llama-head-dim": LlamaConfig(**ODD, head_dim=16, rms_norm_eps=1e-3),
    "llama-yarn": LlamaConfig(**ODD, rope_parameters=YARN),
    "mistral": MistralConfig(**ODD, sliding_window=5),
    "mistral-full": MistralConfig(**ODD, sliding_window=None),
    "qwen2": Qwen2Config(**ODD),
    "qwen2-window": Qwen2Config(
        **ODD, use_sliding_window=True, sliding_window=7, max_window_layers=0
    ),
    "qwen2-mixed": Qwen2Config(
        **ODD,
        use_sliding_window=True,
        sliding_window=7,
        max_window_layers=1,
        rope_parameters={**YARN, "attention_factor": 1.5, "beta_fast": 3.0, "beta_slow": 0.25},
    ),
    "qwen3-mixed": Qwen3Config(
        **ODD, head_dim=20, use_sliding_window=True, sliding_window=3, max_window_layers=2
    ),
    "qwen3": Qwen3Config(**ODD, head_dim=20),
    "qwen3-tied": Qwen3Config(**ODD, head_dim=8, tie_word_embeddings=True),
}


def make_model(name: str, **changes: Any) -> Any:
    """A model of random weights, also where they usually begin as zeros or ones."""
    config = AutoConfig.for_model(**{**CONFIGS[name].to_dict(), **changes})
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(12)
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.1
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return model


def write_folder(name: str, folder: Path, *, shard: str = "5GB", **changes: Any) -> Any:
    """The model, written to a folder."""
    model = make_model(name, **changes)
    model.save_pretrained(folder, max_shard_size=shard)
    return model
