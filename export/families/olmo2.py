"""OLMo 2: norms after attention and feed-forward instead of before, and over all queries and all keys (arXiv:2501.00656)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeport.export.families.config import read_decoder
from edgeport.export.families.decoder import BlockStyle, DecoderSpec


def read_spec(config: Mapping[str, Any]) -> DecoderSpec:
    bias = bool(config.get("attention_bias", False))
    return read_decoder(
        config,
        family="olmo2",
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=False,
        block=BlockStyle(norm_placement="post", query_key_norm="all"),
    )
