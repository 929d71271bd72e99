"""Qwen2 and Qwen2.5: biases on query, key and value only (arXiv:2407.10671)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeport.errors import UnsupportedModel
from edgeport.export.families.config import read_decoder
from edgeport.export.families.decoder import DecoderSpec


def read_spec(config: Mapping[str, Any]) -> DecoderSpec:
    if config.get("use_sliding_window"):
        raise UnsupportedModel(
            "this qwen2 model uses a sliding window (use_sliding_window = true), which edgeport does not export yet",
            hint="if the context you need is within the window, set use_sliding_window to false in config.json",
        )
    return read_decoder(config, family="qwen2", qkv_bias=True, output_bias=False, mlp_bias=False)
