"""Read the fields every decoder's config.json shares; each missing or unusable one is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeport.errors import UnsupportedModel
from edgeport.export.families.decoder import DecoderSpec, RopeSpec


def read_decoder(
    config: Mapping[str, Any], *, family: str, qkv_bias: bool, output_bias: bool, mlp_bias: bool
) -> DecoderSpec:
    """Build the spec of a llama-shaped decoder. Raises UnsupportedModel with every reason at once."""
    problems: list[str] = []
    missing = [key for key in _REQUIRED if config.get(key) is None]
    if missing:
        raise UnsupportedModel(f"config.json of this {family} model lacks {', '.join(missing)}")
    heads = int(config["num_attention_heads"])
    hidden_size = int(config["hidden_size"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    if config.get("hidden_act", "silu") != "silu":
        problems.append(f"hidden_act is {config['hidden_act']!r}, supported is 'silu'")
    if heads % kv_heads:
        problems.append(f"{heads} heads are not a multiple of {kv_heads} key-value heads")
    if family in _HEADS_DIVIDE_HIDDEN and hidden_size % heads:
        problems.append(
            f"hidden_size {hidden_size} is not a multiple of {heads} heads, without which transformers opens no llama"
        )
    rope = read_rope(config, problems)
    if problems or rope is None:
        raise UnsupportedModel(f"this {family} model cannot be exported: " + "; ".join(problems))
    return DecoderSpec(
        family=family,
        architecture=config["architectures"][0],
        hidden_size=hidden_size,
        intermediate_size=int(config["intermediate_size"]),
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=int(config.get("head_dim") or hidden_size // heads),
        vocab_size=int(config["vocab_size"]),
        context_length=int(config["max_position_embeddings"]),
        rms_norm_eps=float(config["rms_norm_eps"]),
        rope=rope,
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        config=dict(config),
    )


_REQUIRED = (
    "architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
    "max_position_embeddings", "rms_norm_eps",
)  # fmt: skip


_HEADS_DIVIDE_HIDDEN = ("llama", "nemotron-nas")
"""transformers 5 checks it in LlamaConfig even where head_dim makes it meaningless; Qwen2Config does not."""

_ROPE_REQUIRED = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def read_rope(config: Mapping[str, Any], problems: list[str]) -> RopeSpec | None:
    """Rotary settings: transformers 5 keeps them in `rope_parameters`, older files in `rope_theta` and `rope_scaling`."""
    settings: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(settings.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = settings.get("rope_type") or settings.get("type") or "default"
    partial = float(settings.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0)
    if partial != 1.0:
        problems.append(f"partial_rotary_factor is {partial}, supported is 1.0")
    missing = [key for key in _ROPE_REQUIRED.get(kind, ()) if settings.get(key) is None]
    if missing:
        problems.append(f"rope scaling {kind!r} lacks {', '.join(missing)}")
        return None
    if kind == "default":
        return RopeSpec(theta)
    if kind == "linear":
        return RopeSpec(theta, "linear", factor=float(settings["factor"]))
    if kind == "llama3":
        return RopeSpec(
            theta,
            "llama3",
            factor=float(settings["factor"]),
            low_freq_factor=float(settings["low_freq_factor"]),
            high_freq_factor=float(settings["high_freq_factor"]),
            original_context_length=int(settings["original_max_position_embeddings"]),
        )
    problems.append(f"rope scaling {kind!r}, supported are 'default', 'linear', 'llama3'")
    return None
