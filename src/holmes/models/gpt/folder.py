"""The sizes that config.json of a GPT-2 states, and back. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from holmes.errors import ConfigError
from holmes.models.common.hf.folder import FolderConfig

if TYPE_CHECKING:
    from holmes.models.gpt.config import GptConfig

ACTIVATIONS = {"gelu_new": "gelu-tanh", "gelu_pytorch_tanh": "gelu-tanh", "gelu": "gelu"}


def sizes_in(folder: Path) -> dict[str, Any]:
    """Keys of a GptConfig.

    Raises:
        DataError: config.json cannot be read, or lacks a size.
        ConfigError: it asks for something that the model does not have.
    """
    config = FolderConfig(folder)
    config.require("activation_function", "gelu_new", tuple(ACTIVATIONS))
    config.require("scale_attn_weights", True, (True,))
    config.require("scale_attn_by_inverse_layer_idx", False, (False,))
    config.require("add_cross_attention", False, (False,))
    hidden = config.whole("n_embd")
    return {
        "layers": config.whole("n_layer"),
        "hidden": hidden,
        "heads": config.whole("n_head"),
        "sequence": config.whole("n_positions"),
        "vocabulary": config.whole("vocab_size"),
        "ffn": config.whole("n_inner", 4 * hidden),
        "mlp": ACTIVATIONS[config.word("activation_function", "gelu_new")],
        "tied": config.flag("tie_word_embeddings", True),
        "norm_epsilon": config.number("layer_norm_epsilon", 1e-5),
    }


def folder_config(config: GptConfig) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        ConfigError: it is no GPT-2: rotary positions, a gated MLP, RMSNorm or no biases.
    """
    needed = {"positions": "learned", "norm": "layernorm", "bias": True}
    for key, value in needed.items():
        if getattr(config, key) != value:
            raise _not_gpt2(key, getattr(config, key), value)
    if config.mlp == "swiglu":
        raise _not_gpt2("mlp", config.mlp, "gelu or gelu-tanh")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": config.layers,
        "n_embd": config.hidden,
        "n_head": config.heads,
        "n_positions": config.sequence,
        "n_inner": config.inner,
        "vocab_size": config.vocabulary,
        "activation_function": "gelu_new" if config.mlp == "gelu-tanh" else "gelu",
        "layer_norm_epsilon": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def _not_gpt2(key: str, value: object, needed: object) -> ConfigError:
    return ConfigError(
        "this GPT has no Hugging Face architecture",
        where=f"model.{key}: {value}",
        why=f"a GPT-2 has {needed}",
        next_step="`holmes checkpoint convert` writes its parameters as one safetensors file",
    )
