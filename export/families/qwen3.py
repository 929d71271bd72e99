"""Qwen3: Llama with a norm over the features of each query and key head (arXiv:2505.09388)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgeport.export.families.config import read_decoder
from edgeport.export.families.decoder import BlockStyle, DecoderSpec
from edgeport.export.families.qwen2 import read_qwen_windows

DEFAULTS = {"head_dim": 128, "num_key_value_heads": 32}
"""What transformers takes where config.json is silent; other families compute these two."""


def read_spec(config: Mapping[str, Any]) -> DecoderSpec:
    bias = bool(config.get("attention_bias", False))
    spec = read_decoder(
        {**DEFAULTS, **config},
        family="qwen3",
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=False,
        block=BlockStyle(query_key_norm="head"),
    )
    return dataclasses.replace(spec, config=dict(config), windows=read_qwen_windows(config, spec.layers))
