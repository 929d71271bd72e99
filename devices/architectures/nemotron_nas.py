"""Nemotron-NAS: a llama whose layers differ in key-value heads and feed-forward width (Puzzle, arXiv:2411.19146).

`block_configs` has one entry per layer: attention.n_heads_in_group (query heads per key-value head) and ffn.ffn_mult, of which
the width is int(2 * ffn_mult * hidden_size / 3) rounded up to a multiple of 256, or ffn.intermediate_size, the width itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from edgeport.devices.architectures.fields import LARGEST_SIZE, ConfigFields
from edgeport.devices.architectures.llama import PRE_NORMS, Style, attention, gated
from edgeport.devices.architectures.parts import Frame, model_shape, norm, read_frame, table
from edgeport.devices.shape import CacheShape, ModelShape, TensorShape

WIDTH_MULTIPLE = 256
REPLACEMENTS = ("no_op", "replace_with_linear", "sparsify", "window_length")


def nemotron_nas(fields: ConfigFields) -> ModelShape:
    frame = read_frame(fields)
    blocks = fields.items("block_configs")
    if blocks is None:
        fields.problem("block_configs is missing")
    elif len(blocks) != frame.layers:
        fields.problem(f"num_hidden_layers is {frame.layers} and there are {len(blocks)} block_configs")
    frames, widths = [], []
    for layer, block in enumerate(blocks or ()):
        parts = block if isinstance(block, Mapping) else {}
        frames.append(_frame(fields, frame, _half(fields, parts, "attention", layer), layer))
        widths.append(_width(fields, frame, _half(fields, parts, "ffn", layer), layer))
    bias = fields.flag("attention_bias", default=fields.flag("bias"))
    style = Style(fields.flag("qkv_bias", default=bias), bias, fields.flag("mlp_bias"))
    tied = fields.flag("tie_word_embeddings")
    fields.check()
    tensors = _tensors(frames, widths, style, tied)
    caches = tuple(CacheShape(item.kv_heads, item.head_dim, item.head_dim) for item in frames)
    return model_shape(fields, frame, tensors, caches, intermediate_size=max(widths), tied=tied)


def _tensors(frames: list[Frame], widths: list[int], style: Style, tied: bool) -> Iterator[TensorShape]:
    vocabulary, hidden = frames[0].vocab_size, frames[0].hidden_size
    yield table("model.embed_tokens", vocabulary, hidden)
    for layer, (frame, width) in enumerate(zip(frames, widths, strict=True)):
        prefix = f"model.layers.{layer}"
        for name in PRE_NORMS:
            yield from norm(f"{prefix}.{name}", hidden, layer)
        yield from attention(f"{prefix}.self_attn", frame, layer, style)
        yield from gated(f"{prefix}.mlp", hidden, width, layer, style)
    yield from norm("model.norm", hidden)
    if not tied:
        yield table("lm_head", vocabulary, hidden, "head")


def _half(fields: ConfigFields, block: Mapping[str, Any], name: str, layer: int) -> Mapping[str, Any]:
    half = block.get(name)
    if not isinstance(half, Mapping):
        fields.problem(f"block_configs[{layer}] has no {name}")
        return {}
    for key in REPLACEMENTS:
        if half.get(key):
            fields.problem(
                f"block_configs[{layer}].{name} has {key}, which changes what the layer is made of"
            )
    return half


def _frame(fields: ConfigFields, frame: Frame, attention: Mapping[str, Any], layer: int) -> Frame:
    group = attention.get("n_heads_in_group")
    if not isinstance(group, int) or group < 1 or frame.heads % group:
        fields.problem(
            f"block_configs[{layer}].attention.n_heads_in_group is {group!r:.20}, it must divide {frame.heads} heads"
        )
        return frame
    return dataclasses.replace(frame, kv_heads=frame.heads // group)


def _width(fields: ConfigFields, frame: Frame, ffn: Mapping[str, Any], layer: int) -> int:
    mult, width = ffn.get("ffn_mult"), ffn.get("intermediate_size")
    if isinstance(mult, (int, float)) and 0 < mult < LARGEST_SIZE:
        return -(-int(2 * mult * frame.hidden_size / 3) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    if mult is None and isinstance(width, int) and 0 < width <= LARGEST_SIZE:
        return width
    fields.problem(f"block_configs[{layer}].ffn has neither a usable ffn_mult nor intermediate_size")
    return 1
