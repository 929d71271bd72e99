"""Qwen2 and Qwen2.5: biases on query, key and value only (arXiv:2407.10671)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgeport.export.families.config import read_decoder, read_windows
from edgeport.export.families.decoder import DecoderSpec

DEFAULT_MAX_WINDOW_LAYERS = 28


def read_spec(config: Mapping[str, Any]) -> DecoderSpec:
    spec = read_decoder(config, family="qwen2", qkv_bias=True, output_bias=False, mlp_bias=False)
    return dataclasses.replace(spec, windows=read_qwen_windows(config, spec.layers))


def read_qwen_windows(config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """With use_sliding_window the layers from max_window_layers on slide; without it sliding_window says nothing."""
    if not config.get("use_sliding_window"):
        return ()
    full = int(config.get("max_window_layers", DEFAULT_MAX_WINDOW_LAYERS))
    return read_windows(config, layers, lambda layer: layer >= full)
