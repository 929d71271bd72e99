"""Llama 2/3.x, SmolLM2, TinyLlama: optional biases by config flag (arXiv:2302.13971, arXiv:2407.21783)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeport.export.families.config import read_decoder
from edgeport.export.families.decoder import DecoderSpec


def read_spec(config: Mapping[str, Any]) -> DecoderSpec:
    attention_bias = bool(config.get("attention_bias", False))
    return read_decoder(
        config,
        family="llama",
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
    )
