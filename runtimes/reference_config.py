"""config.json of a decoder as the numpy reference reads it: sizes, what its layers are made of, windows, rotary settings.

Keys and their meaning are those of transformers' configuration classes; a value that a file leaves out is theirs. It shares no
code with the exporter, whose reading it is there to check.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import ArtifactError, UnsupportedModel
from edgeport.runtimes.rotary import inverse_frequencies, original_context_length

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReferenceConfig:
    """norms: names of the norms around attention and around the feed-forward, None where there is none.

    norm_offset: added to a stored norm weight. query_key_norm: "", "head" or "all". activation: "silu" or "gelu_tanh".
    windows: per layer, how many of the last tokens it sees, None for all. ropes: rotary settings per layer, as rotary.py reads.
    """

    layers: int
    hidden_size: int
    heads: int
    head_dim: int
    context_length: int
    rms_norm_eps: float
    norms: tuple[str | None, str | None, str | None, str | None]
    norm_offset: float
    query_key_norm: str
    activation: str
    attention_scale: float
    attention_softcap: float | None
    residual_scale: float
    embedding_scale: float
    logit_divisor: float
    logit_softcap: float | None
    windows: tuple[int | None, ...]
    ropes: tuple[Settings, ...]


def read_reference_config(folder: Path) -> ReferenceConfig:
    """Raises ArtifactError for a file that cannot be, UnsupportedModel for a model the reference does not compute."""
    path = folder / "config.json"
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    if not isinstance(stored, dict) or stored.get("model_type") not in FAMILIES:
        found = stored.get("model_type") if isinstance(stored, dict) else None
        raise UnsupportedModel(
            f"the reference runtime cannot run model_type {found!r}", hint=f"it runs {', '.join(FAMILIES)}"
        )
    family = str(stored["model_type"])
    config = {**_DEFAULTS.get(family, {}), **stored}
    wrong = next((name for name in _SIZES if not _is_positive(config.get(name))), None)
    if wrong is not None:
        raise ArtifactError(f"{path}: {wrong} is {config.get(wrong)!r}, it must be a number above 0")
    try:
        return _read(family, config)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ArtifactError(f"{path} is no configuration of a {family} model: {error!r}") from error


_PRE = ("input_layernorm", None, "post_attention_layernorm", None)
_POST = (None, "post_attention_layernorm", None, "post_feedforward_layernorm")
_BOTH = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
_SIZES = (
    "hidden_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "rms_norm_eps",
)
"""What a config.json must say."""
_GEMMA_DEFAULTS: Settings = {
    "head_dim": 256,
    "num_attention_heads": 8,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
}
_DEFAULTS: Mapping[str, Settings] = {
    "qwen3": {"head_dim": 128},
    "gemma2": {
        **_GEMMA_DEFAULTS,
        "max_position_embeddings": 8192,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3_text": {**_GEMMA_DEFAULTS, "max_position_embeddings": 131_072},
}
_LENGTHS = ("max_position_embeddings", "original_max_position_embeddings")
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


@dataclass(frozen=True, slots=True)
class _Family:
    """slides: whether a layer does, where config.json has no layer_types; None where none does. switched: use_sliding_window
    has to be set for that."""

    norms: tuple[str | None, str | None, str | None, str | None] = _PRE
    query_key_norm: str = ""
    activation: str = "silu"
    gemma: bool = False
    slides: Callable[[Settings, int], bool] | None = None
    switched: bool = False


def _qwen_slides(config: Settings, layer: int) -> bool:
    return layer >= int(config.get("max_window_layers", 28))


def _gemma3_slides(config: Settings, layer: int) -> bool:
    pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
    return (layer + 1) % int(pattern) != 0


FAMILIES: Mapping[str, _Family] = {
    "llama": _Family(),
    "qwen2": _Family(slides=_qwen_slides, switched=True),
    "nemotron-nas": _Family(),
    "mistral": _Family(slides=lambda config, layer: True),
    "qwen3": _Family(query_key_norm="head", slides=_qwen_slides, switched=True),
    "phi3": _Family(slides=lambda config, layer: True),
    "granite": _Family(),
    "olmo2": _Family(_POST, query_key_norm="all"),
    "gemma2": _Family(_BOTH, activation="gelu_tanh", gemma=True, slides=lambda config, layer: layer % 2 == 0),
    "gemma3_text": _Family(
        _BOTH, query_key_norm="head", activation="gelu_tanh", gemma=True, slides=_gemma3_slides
    ),
}
"""By model_type."""


def _read(family: str, config: Settings) -> ReferenceConfig:
    known = FAMILIES[family]
    layers, hidden = int(config["num_hidden_layers"]), int(config["hidden_size"])
    head_dim = int(config.get("head_dim") or hidden // int(config["num_attention_heads"]))
    activation = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    if _ACTIVATIONS.get(activation) != known.activation:
        raise UnsupportedModel(f"the reference runtime has no activation {activation!r} in {family}")
    granite = family == "granite"  # whose keys other families' files may hold without a meaning
    scale = float(config["query_pre_attn_scalar"]) ** -0.5 if known.gemma else float(head_dim) ** -0.5
    windows = _windows(known, config, layers)
    ropes = tuple(_rope(family, config, slides=window is not None) for window in windows)
    limits = map(original_context_length, ropes)
    for rope in {str(rope): rope for rope in ropes}.values():
        inverse_frequencies(
            rope, head_dim
        )  # what is missing in the settings is an error here, not in the session
    return ReferenceConfig(
        layers=layers,
        hidden_size=hidden,
        heads=int(config["num_attention_heads"]),
        head_dim=head_dim,
        context_length=min([int(config["max_position_embeddings"]), *filter(None, limits)]),
        rms_norm_eps=float(config["rms_norm_eps"]),
        norms=known.norms,
        norm_offset=1.0 if known.gemma else 0.0,
        query_key_norm=known.query_key_norm,
        activation=known.activation,
        attention_scale=float(config.get("attention_multiplier", 1.0)) if granite else scale,
        attention_softcap=config.get("attn_logit_softcapping") if known.gemma else None,
        residual_scale=float(config.get("residual_multiplier", 1.0)) if granite else 1.0,
        embedding_scale=_embedding_scale(known, config),
        logit_divisor=float(config.get("logits_scaling", 1.0)) if granite else 1.0,
        logit_softcap=config.get("final_logit_softcapping") if known.gemma else None,
        windows=windows,
        ropes=ropes,
    )


def _embedding_scale(known: _Family, config: Settings) -> float:
    if known.gemma:
        return math.sqrt(config["hidden_size"])
    return float(config.get("embedding_multiplier", 1.0)) if config["model_type"] == "granite" else 1.0


def _windows(known: _Family, config: Settings, layers: int) -> tuple[int | None, ...]:
    window, kinds = config.get("sliding_window"), config.get("layer_types")
    switched_off = known.switched and not config.get("use_sliding_window")
    if known.slides is None or not window or switched_off:
        return (None,) * layers
    if kinds is None:
        return tuple(int(window) if known.slides(config, layer) else None for layer in range(layers))
    if len(kinds) != layers or not set(kinds) <= {"sliding_attention", "full_attention"}:
        raise UnsupportedModel(f"layer_types {kinds!r} is no kind of attention for each of {layers} layers")
    return tuple(int(window) if kind == "sliding_attention" else None for kind in kinds)


def _rope(family: str, config: Settings, *, slides: bool) -> Settings:
    """rope_type, rope_theta and what belongs to the type, of one layer."""
    stored = config.get("rope_parameters") or config.get("rope_scaling") or {}
    flat = {key: value for key, value in stored.items() if not isinstance(value, Mapping)}
    if family == "gemma3_text":
        own = stored.get("sliding_attention" if slides else "full_attention") or {}
        if slides:
            return {"rope_theta": config.get("rope_local_base_freq") or 10000.0, **own}
        return {"rope_theta": config.get("rope_theta") or 1_000_000.0, **flat, **own}
    share = flat.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    if share != 1.0 and family != "phi3":
        raise UnsupportedModel(f"{family} with partial_rotary_factor {share}, whole heads turn there")
    # A length the model names outside of the settings wins (transformers' standardize_rope_params).
    lengths = {key: config[key] for key in _LENGTHS if config.get(key)}
    theta = config.get("rope_theta") or 10000.0
    return {"rope_theta": theta, **flat, **lengths, "partial_rotary_factor": share}


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0
