"""Gemma 3, text: Gemma 2 with norms over query and key heads, two rotary bases, five sliding layers to one (arXiv:2503.19786)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgeport.errors import UnsupportedModel
from edgeport.export.families.config import read_decoder, read_rope, read_windows
from edgeport.export.families.decoder import BlockStyle, DecoderSpec, RopeSpec
from edgeport.export.families.gemma2 import NORM_OFFSET, gemma_biases
from edgeport.export.families.storage import Storage

GLOBAL_THETA, LOCAL_THETA = 1_000_000.0, 10_000.0
PATTERN = 6
DEFAULTS = {
    "head_dim": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}


def read_spec(config: Mapping[str, Any]) -> DecoderSpec:
    if config.get("use_bidirectional_attention"):
        raise UnsupportedModel(
            "this gemma3 model attends in both directions (use_bidirectional_attention), it is no decoder"
        )
    full = {**DEFAULTS, **config}
    pattern = int(full.get("sliding_window_pattern") or full.get("_sliding_window_pattern") or PATTERN)
    rope, window_rope = _ropes(full)
    spec = read_decoder(
        {**full, "rope_parameters": None, "rope_scaling": None},
        family="gemma3",
        **gemma_biases(full),
        block=BlockStyle(
            norm_placement="both",
            query_key_norm="head",
            activation="gelu_tanh",
            attention_scale=float(full["query_pre_attn_scalar"]) ** -0.5,
            attention_softcap=full["attn_logit_softcapping"],
        ),
    )
    return dataclasses.replace(
        spec,
        config=dict(config),
        rope=rope,
        window_rope=window_rope,
        windows=read_windows(full, spec.layers, lambda layer: (layer + 1) % pattern != 0),
        embedding_scale=float(spec.hidden_size) ** 0.5,
        logit_softcap=full["final_logit_softcapping"],
        storage=Storage(norm_offset=NORM_OFFSET),
    )


def _ropes(config: Mapping[str, Any]) -> tuple[RopeSpec, RopeSpec]:
    """Of the layers that see everything, which alone are scaled in old files, and of those with a window."""
    problems: list[str] = []
    new = config.get("rope_parameters") or {}
    whole = {
        "rope_theta": config.get("rope_theta") or GLOBAL_THETA,
        **(config.get("rope_scaling") or {}),
        **(new.get("full_attention") or {}),
    }
    sliding = {
        "rope_theta": config.get("rope_local_base_freq") or LOCAL_THETA,
        **(new.get("sliding_attention") or {}),
    }
    ropes = [read_rope(config, problems, settings) for settings in (whole, sliding)]
    if problems or ropes[0] is None or ropes[1] is None:
        raise UnsupportedModel("this gemma3 model cannot be exported: " + "; ".join(problems))
    return ropes[0], ropes[1]
