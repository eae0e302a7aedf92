"""The sizes that config.json of a Llama, Mistral, Qwen2 or Qwen3 states, and back. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holmes.errors import ConfigError
from holmes.models.common.hf.folder import FolderConfig

if TYPE_CHECKING:
    from holmes.models.llama.config import LlamaConfig

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
FULL, SLIDING = "full_attention", "sliding_attention"
SCALINGS: dict[str, dict[str, str]] = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low": "low_freq_factor",
        "high": "high_freq_factor",
        "original": "original_max_position_embeddings",
    },
    "yarn": {
        "factor": "factor",
        "low": "beta_slow",
        "high": "beta_fast",
        "original": "original_max_position_embeddings",
        "amplitude": "attention_factor",
    },
}
"""A field of RotaryScaling to their key, for every kind of rotary scaling that is supported."""


def sizes_in(folder: Path) -> dict[str, Any]:
    """Keys of a LlamaConfig.

    Raises:
        DataError: config.json cannot be read, or lacks a size.
        ConfigError: it asks for something that the model does not have.
    """
    config = FolderConfig(folder)
    kind = config.model_type
    config.require("hidden_act", "silu", ("silu",))
    config.require("attention_bias", False, (False,))
    config.require("mlp_bias", False, (False,))
    heads = config.whole("num_attention_heads")
    sizes: dict[str, Any] = {
        "layers": config.whole("num_hidden_layers"),
        "hidden": config.whole("hidden_size"),
        "heads": heads,
        "sequence": config.whole("max_position_embeddings"),
        "vocabulary": config.whole("vocab_size"),
        "key_heads": config.whole("num_key_value_heads", heads),
        "ffn": config.whole("intermediate_size"),
        "tied": config.flag("tie_word_embeddings", False),
        "norm_epsilon": config.number("rms_norm_eps", 1e-6),
        **_window(config, kind),
        "qkv_bias": kind == "qwen2",
        "qk_norm": kind == "qwen3",
        **_rotary(config),
    }
    if "head_dim" in config or kind == "qwen3":
        sizes["head_dim"] = config.whole("head_dim", 128)
    return sizes


def _window(config: FolderConfig, kind: str) -> dict[str, int]:
    """The sliding window, and the first layer that has it; nothing where none has.

    Raises:
        ConfigError: layers with and without one alternate.
    """
    if kind not in ("mistral", "qwen2", "qwen3") or "sliding_window" not in config:
        return {}
    if kind != "mistral" and not config.flag("use_sliding_window", False):
        return {}
    layers = config.whole("num_hidden_layers")
    kinds = config.words("layer_types")
    first = 0 if kind == "mistral" else config.whole("max_window_layers", 28, least=0)
    if kinds:
        slides = [word == SLIDING for word in kinds]
        first = slides.index(True) if any(slides) else layers
        if not set(kinds) <= {FULL, SLIDING} or len(kinds) != layers or not all(slides[first:]):
            raise config.refusal(
                "layer_types", "supported: a sliding window in the last layers, in all or in none"
            )
    if first >= layers:
        return {}
    return {"window": config.whole("sliding_window"), "window_from": first}


def _rotary(config: FolderConfig) -> dict[str, Any]:
    """Base and scaling of the angles, by the keys of old folders and of new ones."""
    key = "rope_parameters" if "rope_parameters" in config else "rope_scaling"
    given = config.section(key)
    base = given.get("rope_theta", config.number("rope_theta", 10000.0))
    found: dict[str, Any] = {"rotary_base": base}
    kind = given.get("rope_type", given.get("type", "default"))
    if given.get("partial_rotary_factor", 1.0) != 1.0:
        raise config.refusal(key, "only a part of the features is rotated")
    if kind == "default":
        return found
    if kind not in SCALINGS:
        supported = ", ".join(("default", *SCALINGS))
        raise config.refusal(key, f"rotary scaling {kind!r}; supported: {supported}")
    found["rotary_scaling"] = kind
    for ours, theirs in SCALINGS[kind].items():
        if given.get(theirs) is not None:
            found[f"rotary_{ours}"] = given[theirs]
    if kind == "yarn":
        _check_yarn(config, key, given)
    return found


def _check_yarn(config: FolderConfig, key: str, given: Mapping[str, Any]) -> None:
    """Refuse the variants of other architectures."""
    for other in ("mscale", "mscale_all_dim"):
        if given.get(other) and given.get("attention_factor") is None:
            raise config.refusal(key, f"yarn with {other}; supported: attention_factor")
    if given.get("truncate", True) is not True:
        raise config.refusal(key, "yarn with truncate: false; supported: true")


def folder_config(config: LlamaConfig) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        ConfigError: no architecture has this combination.
    """
    kind = _kind(config)
    rotary: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rotary_base}
    if (scaling := config.scaling) is not None:
        rotary["rope_type"] = scaling.kind
        names = SCALINGS[scaling.kind]
        rotary |= {theirs: getattr(scaling, ours) for ours, theirs in names.items()}
    found: dict[str, Any] = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.groups,
        "head_dim": config.head_size,
        "intermediate_size": config.inner,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.sequence,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "rope_parameters": rotary,
        # What versions before 5 read instead.
        "rope_theta": config.rotary_base,
        "rope_scaling": rotary if config.rotary_scaling else None,
    }
    if kind == "mistral":
        found["sliding_window"] = config.window
    elif kind in ("qwen2", "qwen3"):
        windows = [config.window_of(layer) for layer in range(config.layers)]
        found |= {
            "use_sliding_window": config.window is not None,
            "sliding_window": config.window,
            "max_window_layers": windows.count(None),
            "layer_types": [FULL if window is None else SLIDING for window in windows],
        }
    return found


def _kind(config: LlamaConfig) -> str:
    if config.qk_norm and config.qkv_bias:
        raise ConfigError(
            "no Hugging Face architecture has this combination",
            where="model.qk_norm, model.qkv_bias",
            why="Qwen3 has the norms and Qwen2 the biases",
        )
    if config.qk_norm:
        return "qwen3"
    if config.qkv_bias:
        return "qwen2"
    if config.window_from:
        raise ConfigError(
            "no Hugging Face architecture has this combination",
            where="model.window_from",
            why="Mistral has its window in all layers; Qwen2 and Qwen3 have biases or norms",
        )
    return "llama" if config.window is None else "mistral"
