"""Decoders with a mixture of experts; attention and norms are a llama's.

Experts are listed as the published files hold them, one matrix each: a `TensorShape` with the number of experts as its
count. gpt-oss is published with all experts of a layer in one tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from edgeport.devices.architectures.fields import ConfigFields
from edgeport.devices.architectures.llama import Style, decoder_tensors, gated, read_windows
from edgeport.devices.architectures.parts import attention_caches, experts, model_shape, read_frame
from edgeport.devices.shape import ModelShape, TensorShape

GATED = ("gate_proj", "up_proj", "down_proj")
EVERY_OTHER = 2


def mixtral(fields: ConfigFields) -> ModelShape:
    """arXiv:2401.04088"""
    count = fields.count("num_local_experts")
    width, hidden = fields.size("intermediate_size"), fields.size("hidden_size")

    def feed_forward(layer: int) -> Iterator[TensorShape]:
        prefix = f"model.layers.{layer}.block_sparse_moe"
        return expert_tensors(prefix, hidden, width, layer, count, names=("w1", "w3", "w2"))

    return _mixture(fields, Style(), feed_forward, (count, width), slides=lambda layer: True)


def qwen3_moe(fields: ConfigFields) -> ModelShape:
    """Layers of mlp_only_layers, and those decoder_sparse_step leaves out, are dense."""
    count, hidden = fields.count("num_experts", "num_local_experts"), fields.size("hidden_size")
    width, dense_width = fields.size("moe_intermediate_size"), fields.size("intermediate_size")
    step = fields.count("decoder_sparse_step", default=1)
    dense_layers = set(map(str, fields.items("mlp_only_layers") or ()))
    bias = fields.flag("attention_bias")

    def feed_forward(layer: int) -> Iterator[TensorShape]:
        prefix = f"model.layers.{layer}.mlp"
        if str(layer) in dense_layers or (layer + 1) % step:
            return gated(prefix, hidden, dense_width, layer)
        return expert_tensors(prefix, hidden, width, layer, count)

    style = Style(bias, bias, query_key_norm="head")
    slides = (lambda layer: True) if fields.flag("use_sliding_window") else None
    return _mixture(fields, style, feed_forward, (count, max(width, dense_width)), slides=slides)


def olmoe(fields: ConfigFields) -> ModelShape:
    """arXiv:2409.02060"""
    count = fields.count("num_experts", "num_local_experts")
    width, hidden = fields.size("intermediate_size"), fields.size("hidden_size")
    bias = fields.flag("attention_bias")

    def feed_forward(layer: int) -> Iterator[TensorShape]:
        return expert_tensors(f"model.layers.{layer}.mlp", hidden, width, layer, count)

    return _mixture(fields, Style(bias, bias, query_key_norm="all"), feed_forward, (count, width))


def gpt_oss(fields: ConfigFields) -> ModelShape:
    """Every other layer slides; each head has a learned sink (arXiv:2508.10925)."""
    count, heads = fields.count("num_local_experts"), fields.count("num_attention_heads")
    width, hidden = fields.size("intermediate_size"), fields.size("hidden_size")
    bias = fields.flag("attention_bias", default=True)

    def feed_forward(layer: int) -> Iterator[TensorShape]:
        prefix = f"model.layers.{layer}"
        yield TensorShape(f"{prefix}.self_attn.sinks", (heads,), "other", layer)
        yield from _router(f"{prefix}.mlp.router", count, hidden, layer, bias=True)
        for name, shape in (("gate_up_proj", (hidden, 2 * width)), ("down_proj", (width, hidden))):
            yield TensorShape(f"{prefix}.mlp.experts.{name}", (count, *shape), "expert", layer)
            yield TensorShape(f"{prefix}.mlp.experts.{name}_bias", (count, shape[1]), "bias", layer)

    def slides(layer: int) -> bool:
        return layer % EVERY_OTHER == 0

    return _mixture(fields, Style(bias, bias), feed_forward, (count, width), slides=slides)


def expert_tensors(
    prefix: str, hidden: int, width: int, layer: int, count: int, *, names: tuple[str, str, str] = GATED
) -> Iterator[TensorShape]:
    """The router and `count` gated networks; names: of gate, up and down."""
    gate, up, down = names
    yield from _router(f"{prefix}.gate", count, hidden, layer)
    yield experts(f"{prefix}.experts.*.{gate}", width, hidden, layer, count)
    yield experts(f"{prefix}.experts.*.{up}", width, hidden, layer, count)
    yield experts(f"{prefix}.experts.*.{down}", hidden, width, layer, count)


def _router(name: str, count: int, hidden: int, layer: int, *, bias: bool = False) -> Iterator[TensorShape]:
    yield TensorShape(f"{name}.weight", (count, hidden), "router", layer)
    if bias:
        yield TensorShape(f"{name}.bias", (count,), "bias", layer)


def _mixture(
    fields: ConfigFields,
    style: Style,
    feed_forward: Callable[[int], Iterator[TensorShape]],
    sizes: tuple[int, int],
    *,
    slides: Callable[[int], bool] | None = None,
) -> ModelShape:
    """sizes: experts of a layer, and the widest feed-forward part."""
    frame = read_frame(fields)
    windows = read_windows(fields, frame, slides)
    chosen = fields.count("num_experts_per_tok", "experts_per_token")
    count, width = sizes
    if chosen > count:
        fields.problem(f"{chosen} experts per token of {count}")
    tied = fields.flag("tie_word_embeddings")
    fields.check()
    tensors = decoder_tensors(frame, style, feed_forward, tied=tied)
    caches = attention_caches(frame, windows)
    shape = model_shape(fields, frame, tensors, caches, intermediate_size=width, tied=tied)
    return dataclasses.replace(shape, experts=count, experts_per_token=chosen)
