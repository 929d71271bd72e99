"""Phi-3 and Phi-4-mini: one matrix for query, key and value, one for gate and up, long rope (arXiv:2404.14219).

A long-rope model turns its keys by one set of factors in short contexts and by another in long ones; a cache cannot hold both.
It is exported for the short ones: its context is original_max_position_embeddings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgeport.export.families.config import read_decoder, read_windows
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.families.storage import FUSED_ATTENTION, FUSED_FEED_FORWARD, Storage


def read_spec(config: Mapping[str, Any]) -> DecoderSpec:
    spec = read_decoder(config, family="phi3", qkv_bias=False, output_bias=False, mlp_bias=False)
    return dataclasses.replace(
        spec,
        windows=read_windows(config, spec.layers, lambda _: True),
        storage=Storage(fused=(FUSED_ATTENTION, FUSED_FEED_FORWARD)),
    )
