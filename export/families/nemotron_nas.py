"""Nemotron-NAS: a llama whose layers differ in key-value heads and feed-forward width (Puzzle, arXiv:2411.19146).

config.json is a llama's with `block_configs`, one per layer: `attention.n_heads_in_group` (query heads per key-value head)
and `ffn.ffn_mult`, from which the width is int(2 * ffn_mult * hidden_size / 3) rounded up to a multiple of 256, or
`ffn.intermediate_size`, the width itself. vLLM reads both (model_executor/models/nemotron_nas.py), llama.cpp's converter
the first. Layers without attention or feed-forward, and those that replace one by a matrix, are refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgeport.errors import UnsupportedModel
from edgeport.export.families.config import read_decoder
from edgeport.export.families.decoder import DecoderSpec, LayerShape

WIDTH_MULTIPLE = 256
MODEL_TYPE = "nemotron-nas"


def read_spec(config: Mapping[str, Any]) -> DecoderSpec:
    """Raises UnsupportedModel with every layer that cannot be exported at once."""
    shapes = _layer_shapes(config)
    uniform = {
        **config,
        "num_key_value_heads": max(shape.kv_heads for shape in shapes),
        "intermediate_size": max(shape.intermediate_size for shape in shapes),
    }
    bias = bool(config.get("attention_bias") or config.get("bias"))
    spec = read_decoder(
        uniform,
        family=MODEL_TYPE,
        qkv_bias=bool(config.get("qkv_bias", bias)),
        output_bias=bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
    )
    # config.json travels on as it was; layers that are alike need no list.
    return dataclasses.replace(
        spec, config=dict(config), layer_shapes=() if len(set(shapes)) == 1 else shapes
    )


def width_of(ffn_mult: float, hidden_size: int) -> int:
    """The feed-forward width that `ffn_mult` stands for."""
    width = int(2 * ffn_mult * hidden_size / 3)
    return -(-width // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


def _layer_shapes(config: Mapping[str, Any]) -> tuple[LayerShape, ...]:
    blocks, heads, hidden = (
        config.get(key) for key in ("block_configs", "num_attention_heads", "hidden_size")
    )
    layers = config.get("num_hidden_layers")
    if not isinstance(blocks, list) or not (heads and hidden and layers):
        needed = "block_configs, num_attention_heads, num_hidden_layers, hidden_size"
        raise UnsupportedModel(f"config.json of a {MODEL_TYPE} model must have {needed}")
    if len(blocks) != layers:
        raise UnsupportedModel(
            f"config.json says num_hidden_layers {layers} and has {len(blocks)} block_configs"
        )
    problems: list[str] = []
    shapes = tuple(
        LayerShape(
            int(heads),
            _kv_heads(block.get("attention") or {}, int(heads), f"layer {layer}", problems),
            _width(block.get("ffn") or {}, int(hidden), f"layer {layer}", problems),
        )
        for layer, block in enumerate(blocks)
    )
    if problems:
        raise UnsupportedModel(
            f"this {MODEL_TYPE} model cannot be exported: " + "; ".join(problems),
            hint="a layer that does nothing can be left out of the weights and of block_configs",
        )
    return shapes


def _kv_heads(attention: Mapping[str, Any], heads: int, where: str, problems: list[str]) -> int:
    if _replaced(attention, f"{where}: attention", problems):
        return 1
    group = attention.get("n_heads_in_group")
    if not isinstance(group, int) or group < 1 or heads % group:
        problems.append(f"{where}: n_heads_in_group is {group!r}, it must divide the {heads} heads")
        return 1
    return heads // group


def _width(ffn: Mapping[str, Any], hidden_size: int, where: str, problems: list[str]) -> int:
    if _replaced(ffn, f"{where}: ffn", problems):
        return 1
    if ffn.get("hidden_act", "silu") != "silu":
        problems.append(f"{where}: ffn hidden_act is {ffn['hidden_act']!r}, supported is 'silu'")
    mult = ffn.get("ffn_mult")
    width = int(ffn.get("intermediate_size") or 0) if mult is None else width_of(float(mult), hidden_size)
    if width < 1:
        problems.append(f"{where}: ffn has neither ffn_mult nor intermediate_size")
    return width


def _replaced(block: Mapping[str, Any], where: str, problems: list[str]) -> bool:
    """Whether this half of the layer is not what a llama has there."""
    found = [key for key in ("no_op", "replace_with_linear", "sparsify", "window_length") if block.get(key)]
    problems.extend(f"{where} has {key} = {block[key]!r}, which edgeport does not export" for key in found)
    return bool(found)
