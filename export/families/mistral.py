"""Mistral: Llama with a window that slides over every layer, where the config names one (arXiv:2310.06825)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgeport.export.families.config import read_decoder, read_windows
from edgeport.export.families.decoder import DecoderSpec


def read_spec(config: Mapping[str, Any]) -> DecoderSpec:
    spec = read_decoder(config, family="mistral", qkv_bias=False, output_bias=False, mlp_bias=False)
    return dataclasses.replace(spec, windows=read_windows(config, spec.layers, lambda _: True))
