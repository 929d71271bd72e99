"""Falcon in its three forms: one key-value head (7B), groups of heads (40B and later), multi-head with biases (RW)."""

from __future__ import annotations

from collections.abc import Iterator

from edgeport.devices.architectures.fields import ConfigFields
from edgeport.devices.architectures.parts import (
    Frame,
    attention_caches,
    divided_heads,
    linear,
    model_shape,
    norm,
    require_language_model,
    table,
)
from edgeport.devices.shape import ModelShape, TensorShape

DEFAULT_CONTEXT_LENGTH = 2048


def falcon(fields: ConfigFields) -> ModelShape:
    """arXiv:2311.16867"""
    require_language_model(fields)
    hidden, heads = fields.size("hidden_size"), fields.count("num_attention_heads", "n_head")
    grouped = fields.flag("new_decoder_architecture")
    single = fields.flag("multi_query", default=True) and not grouped
    frame = Frame(
        hidden_size=hidden,
        layers=fields.count("num_hidden_layers", "n_layer"),
        heads=heads,
        kv_heads=1 if single else fields.count("num_kv_heads", "n_head_kv", default=heads),
        head_dim=divided_heads(fields, hidden, heads),
        vocab_size=fields.size("vocab_size"),
        context_length=fields.size("max_position_embeddings", default=DEFAULT_CONTEXT_LENGTH),
    )
    width = fields.size("ffn_hidden_size", default=4 * hidden)
    bias, tied = fields.flag("bias"), fields.flag("tie_word_embeddings", default=True)
    norms = _norms(fields, grouped)
    fields.check()

    def tensors() -> Iterator[TensorShape]:
        yield table("transformer.word_embeddings", frame.vocab_size, hidden)
        for layer in range(frame.layers):
            prefix = f"transformer.h.{layer}"
            for name in norms:
                yield from norm(f"{prefix}.{name}", hidden, layer, bias=True)
            rows = frame.query_size + 2 * frame.key_size
            yield from linear(f"{prefix}.self_attention.query_key_value", rows, hidden, layer, bias=bias)
            yield from linear(f"{prefix}.self_attention.dense", hidden, hidden, layer, bias=bias)
            yield from linear(f"{prefix}.mlp.dense_h_to_4h", width, hidden, layer, bias=bias)
            yield from linear(f"{prefix}.mlp.dense_4h_to_h", hidden, width, layer, bias=bias)
        yield from norm("transformer.ln_f", hidden, bias=True)
        if not tied:
            yield table("lm_head", frame.vocab_size, hidden, "head")

    caches = attention_caches(frame, (None,) * frame.layers)
    return model_shape(fields, frame, tensors(), caches, intermediate_size=width, tied=tied)


def _norms(fields: ConfigFields, grouped: bool) -> tuple[str, ...]:
    if not fields.flag("parallel_attn", default=True):
        return ("input_layernorm", "post_attention_layernorm")
    if fields.count("num_ln_in_parallel_attn", default=2 if grouped else 1) == 2:
        return ("ln_attn", "ln_mlp")
    return ("input_layernorm",)
