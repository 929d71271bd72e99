"""Read the fields every decoder's config.json shares; each missing or unusable one is named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from edgeport.errors import UnsupportedModel
from edgeport.export.families.decoder import Activation, BlockStyle, DecoderSpec, RopeSpec

LLAMA_BLOCK = BlockStyle()
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
}
"""transformers' names of what they compute; gelu_new and gelu_fast are two spellings of the tanh form."""


def read_decoder(
    config: Mapping[str, Any],
    *,
    family: str,
    qkv_bias: bool,
    output_bias: bool,
    mlp_bias: bool,
    block: BlockStyle = LLAMA_BLOCK,
) -> DecoderSpec:
    """Build the spec of a llama-shaped decoder. Raises UnsupportedModel with every reason at once.

    `block` says how its layers differ; windows, scales and storage the caller puts in with dataclasses.replace.
    """
    problems: list[str] = []
    missing = [key for key in _REQUIRED if config.get(key) is None]
    if missing:
        raise UnsupportedModel(f"config.json of this {family} model lacks {', '.join(missing)}")
    heads = int(config["num_attention_heads"])
    hidden_size = int(config["hidden_size"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    found = config.get("hidden_activation") or config.get("hidden_act") or block.activation
    if ACTIVATIONS.get(found, found) != block.activation:
        problems.append(f"hidden_act is {found!r}, supported is {block.activation!r}")
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
        context_length=_context_length(config, rope),
        rms_norm_eps=float(config["rms_norm_eps"]),
        rope=rope,
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        config=dict(config),
        block=block,
    )


def _context_length(config: Mapping[str, Any], rope: RopeSpec) -> int:
    """Long rope turns keys by other factors in longer contexts; a cache cannot hold both, so the short ones are it."""
    longest = int(config["max_position_embeddings"])
    return min(longest, rope.original_context_length) if rope.kind == "longrope" else longest


def read_windows(
    config: Mapping[str, Any], layers: int, slides: Callable[[int], bool]
) -> tuple[int | None, ...]:
    """One per layer, by `layer_types` or else by `slides`; empty when sliding_window is absent.

    A window counts the token itself (transformers' masking_utils: key > query - window). Raises UnsupportedModel.
    """
    window, kinds = config.get("sliding_window"), config.get("layer_types")
    if window is None:
        return ()
    if not isinstance(window, int) or window < 1:
        raise UnsupportedModel(f"sliding_window is {window!r}, it must be a number of tokens above 0")
    if kinds is None:
        return tuple(window if slides(layer) else None for layer in range(layers))
    unknown = sorted({str(kind) for kind in kinds} - {"sliding_attention", "full_attention"})
    if unknown or len(kinds) != layers:
        raise UnsupportedModel(
            f"layer_types has {len(kinds)} entries for {layers} layers, of kinds {', '.join(sorted(set(map(str, kinds))))}",
            hint="supported are sliding_attention and full_attention, one per layer",
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


_REQUIRED = (
    "architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
    "max_position_embeddings", "rms_norm_eps",
)  # fmt: skip


_HEADS_DIVIDE_HIDDEN = ("llama", "nemotron-nas")
"""transformers 5 checks it in LlamaConfig even where head_dim makes it meaningless; Qwen2Config does not."""

_ROPE_REQUIRED = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "longrope": ("short_factor", "long_factor"),
    "su": ("short_factor", "long_factor"),
}
_PARTIAL = ("phi3",)
"""Families whose heads turn in part only; transformers ignores the setting in the others."""


def read_rope(
    config: Mapping[str, Any], problems: list[str], settings: Mapping[str, Any] | None = None
) -> RopeSpec | None:
    """Rotary settings: transformers 5 keeps them in `rope_parameters`, older files in `rope_theta` and `rope_scaling`.

    settings: those of one kind of layer where a family has two.
    """
    if settings is None:
        settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(settings.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = settings.get("rope_type") or settings.get("type") or "default"
    partial = float(settings.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0)
    if partial != 1.0 and config.get("model_type") not in _PARTIAL:
        problems.append(f"partial_rotary_factor is {partial}, supported is 1.0")
    missing = [key for key in _ROPE_REQUIRED.get(kind, ()) if settings.get(key) is None]
    if missing:
        problems.append(f"rope scaling {kind!r} lacks {', '.join(missing)}")
        return None
    rotary_dim = None if partial == 1.0 else int(_head_dim(config) * partial)
    if kind == "default":
        return RopeSpec(theta, rotary_dim=rotary_dim)
    if kind == "linear":
        return RopeSpec(theta, "linear", factor=float(settings["factor"]), rotary_dim=rotary_dim)
    if kind == "llama3":
        return RopeSpec(
            theta,
            "llama3",
            factor=float(settings["factor"]),
            low_freq_factor=float(settings["low_freq_factor"]),
            high_freq_factor=float(settings["high_freq_factor"]),
            original_context_length=int(settings["original_max_position_embeddings"]),
            rotary_dim=rotary_dim,
        )
    if kind in ("longrope", "su"):
        return _longrope(config, settings, theta, rotary_dim, problems)
    problems.append(f"rope scaling {kind!r}, supported are 'default', 'linear', 'llama3', 'longrope'")
    return None


def _longrope(
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    theta: float,
    rotary_dim: int | None,
    problems: list[str],
) -> RopeSpec | None:
    """As transformers' _compute_longrope_parameters; `su` is its older name."""
    # Given twice, transformers takes the model's own: modeling_rope_utils.standardize_rope_params.
    original = config.get("original_max_position_embeddings") or settings.get(
        "original_max_position_embeddings"
    )
    if not original:
        problems.append("rope scaling 'longrope' lacks original_max_position_embeddings")
        return None
    pairs = (rotary_dim or _head_dim(config)) // 2
    short, long = (tuple(map(float, settings[key])) for key in ("short_factor", "long_factor"))
    for name, factors in (("short_factor", short), ("long_factor", long)):
        if len(factors) != pairs or min(factors) <= 0:
            problems.append(f"{name} has {len(factors)} values, there must be {pairs}, each above 0")
    stretch = float(settings.get("factor") or config["max_position_embeddings"] / int(original))
    scale = settings.get("attention_factor")
    if scale is None:
        scale = 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(int(original)))
    return RopeSpec(
        theta,
        "longrope",
        factor=stretch,
        original_context_length=int(original),
        short_factors=short,
        long_factors=long,
        attention_factor=float(scale),
        rotary_dim=rotary_dim,
    )


def _head_dim(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
