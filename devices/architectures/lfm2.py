"""LFM2: most layers mix tokens by a short gated convolution, the others by grouped-query attention.

A convolution layer remembers its last conv_L_cache - 1 inputs, in float32 in llama.cpp.
Names: transformers' models/lfm2; figures: https://www.liquid.ai/blog/liquid-foundation-models-v2-our-second-series-of-generative-ai-models
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeport.devices.architectures.fields import ConfigFields
from edgeport.devices.architectures.parts import FULL, Frame, linear, model_shape, norm, read_frame, table
from edgeport.devices.shape import CacheShape, ModelShape, TensorShape

CONVOLUTION = "conv"
FLOAT_BYTES = 4


def lfm2(fields: ConfigFields) -> ModelShape:
    frame = read_frame(fields)
    width = _feed_forward_size(fields)
    kernel, bias = fields.count("conv_L_cache", default=3), fields.flag("conv_bias")
    kinds = _kinds(fields, frame.layers)
    tied = fields.flag("tie_word_embeddings", default=fields.flag("tie_embedding", default=True))
    fields.check()
    hidden = frame.hidden_size

    def tensors() -> Iterator[TensorShape]:
        yield table("model.embed_tokens", frame.vocab_size, hidden)
        for layer, kind in enumerate(kinds):
            prefix = f"model.layers.{layer}"
            yield from norm(f"{prefix}.operator_norm", hidden, layer)
            yield from norm(f"{prefix}.ffn_norm", hidden, layer)
            if kind == CONVOLUTION:
                yield from _convolution(f"{prefix}.conv", hidden, kernel, layer, bias)
            else:
                yield from _attention(f"{prefix}.self_attn", frame, layer)
            for name, rows, columns in (
                ("w1", width, hidden),
                ("w3", width, hidden),
                ("w2", hidden, width),
            ):
                yield from linear(f"{prefix}.feed_forward.{name}", rows, columns, layer)
        yield from norm("model.embedding_norm", hidden)
        if not tied:
            yield table("lm_head", frame.vocab_size, hidden, "head")

    remembered = CacheShape(0, 0, 0, state_bytes=FLOAT_BYTES * (kernel - 1) * hidden)
    attended = CacheShape(frame.kv_heads, frame.head_dim, frame.head_dim)
    caches = tuple(remembered if kind == CONVOLUTION else attended for kind in kinds)
    return model_shape(fields, frame, tensors(), caches, intermediate_size=width, tied=tied)


def _feed_forward_size(fields: ConfigFields) -> int:
    """block_ff_dim, taken down to two thirds and up to a multiple where the file says so."""
    width = fields.size("block_ff_dim", "intermediate_size")
    if not fields.flag("block_auto_adjust_ff_dim", default=True):
        return width
    multiple = fields.size("block_multiple_of", default=256)
    narrowed = int(fields.number("block_ffn_dim_multiplier", default=1.0) * int(2 * width / 3))
    return -(-narrowed // multiple) * multiple


def _kinds(fields: ConfigFields, layers: int) -> tuple[str, ...]:
    named = fields.items("layer_types")
    if named:
        if len(named) != layers or set(map(str, named)) - {CONVOLUTION, FULL}:
            fields.problem(
                f"layer_types must have {layers} entries, each {CONVOLUTION} or {FULL}, has {len(named)}"
            )
        return tuple(map(str, named))
    attending = {str(layer) for layer in fields.items("full_attn_idxs") or range(layers)}
    return tuple(FULL if str(layer) in attending else CONVOLUTION for layer in range(layers))


def _convolution(prefix: str, hidden: int, kernel: int, layer: int, bias: bool) -> Iterator[TensorShape]:
    yield TensorShape(f"{prefix}.conv.weight", (hidden, 1, kernel), "convolution", layer)
    if bias:
        yield TensorShape(f"{prefix}.conv.bias", (hidden,), "bias", layer)
    yield from linear(f"{prefix}.in_proj", 3 * hidden, hidden, layer, bias=bias)
    yield from linear(f"{prefix}.out_proj", hidden, hidden, layer, bias=bias)


def _attention(prefix: str, frame: Frame, layer: int) -> Iterator[TensorShape]:
    for name, rows in (("q_proj", frame.query_size), ("k_proj", frame.key_size), ("v_proj", frame.key_size)):
        yield from linear(f"{prefix}.{name}", rows, frame.hidden_size, layer)
    yield from linear(f"{prefix}.out_proj", frame.hidden_size, frame.query_size, layer)
    yield from norm(f"{prefix}.q_layernorm", frame.head_dim, layer)
    yield from norm(f"{prefix}.k_layernorm", frame.head_dim, layer)
