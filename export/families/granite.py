"""Granite 3.x dense: Llama with four multipliers, of embedding, scores, residual branches and logits (arXiv:2405.04324)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgeport.export.families.config import read_decoder
from edgeport.export.families.decoder import BlockStyle, DecoderSpec


def read_spec(config: Mapping[str, Any]) -> DecoderSpec:
    bias = bool(config.get("attention_bias", False))
    spec = read_decoder(
        config,
        family="granite",
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        block=BlockStyle(
            attention_scale=float(config.get("attention_multiplier", 1.0)),
            residual_scale=float(config.get("residual_multiplier", 1.0)),
        ),
    )
    return dataclasses.replace(
        spec,
        embedding_scale=float(config.get("embedding_multiplier", 1.0)),
        logit_scale=1.0 / float(config.get("logits_scaling", 1.0)),
    )
