"""Gemma 2: norms on both sides, their weights stored minus one; soft-capped scores and logits; every other layer slides.

arXiv:2408.00118. Each value that config.json leaves out is transformers'.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgeport.export.families.config import read_decoder, read_windows
from edgeport.export.families.decoder import BlockStyle, DecoderSpec
from edgeport.export.families.storage import Storage

NORM_OFFSET = 1.0
DEFAULTS = {
    "head_dim": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
"""What transformers takes where config.json is silent. A null of the file is not silence."""


def read_spec(config: Mapping[str, Any]) -> DecoderSpec:
    full = {**DEFAULTS, **config}
    spec = read_decoder(
        full,
        family="gemma2",
        **gemma_biases(full),
        block=BlockStyle(
            norm_placement="both",
            activation="gelu_tanh",
            attention_scale=float(full["query_pre_attn_scalar"]) ** -0.5,
            attention_softcap=full["attn_logit_softcapping"],
        ),
    )
    return dataclasses.replace(
        spec,
        config=dict(config),
        windows=read_windows(full, spec.layers, lambda layer: layer % 2 == 0),
        embedding_scale=float(spec.hidden_size) ** 0.5,
        logit_softcap=full["final_logit_softcapping"],
        storage=Storage(norm_offset=NORM_OFFSET),
    )


def gemma_biases(config: Mapping[str, Any]) -> dict[str, bool]:
    bias = bool(config.get("attention_bias", False))
    return {"qkv_bias": bias, "output_bias": bias, "mlp_bias": False}
