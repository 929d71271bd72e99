"""Decoders before llama: GPT-2, OPT, GPT-NeoX (Pythia), Falcon, Phi 1 and 2. LayerNorm with bias, ungated feed-forward.

GPT-2's matrices are stored transposed, [in_features, out_features]; their sizes are what counts here.
"""

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
    read_frame,
    require_language_model,
    table,
)
from edgeport.devices.shape import ModelShape, TensorShape

OPT_POSITION_OFFSET = 2
"""Rows of OPT's position table before the first position."""


def gpt2(fields: ConfigFields) -> ModelShape:
    frame = _plain_frame(fields, hidden="n_embd", layers="n_layer", heads="n_head", context="n_positions")
    hidden = frame.hidden_size
    width = fields.optional_size("n_inner") or 4 * hidden
    if fields.flag("add_cross_attention"):
        fields.problem("add_cross_attention is true, supported are decoders alone")
    tied = fields.flag("tie_word_embeddings", default=True)
    fields.check()

    def tensors() -> Iterator[TensorShape]:
        yield table("transformer.wte", frame.vocab_size, hidden)
        yield table("transformer.wpe", frame.context_length, hidden, "position")
        for layer in range(frame.layers):
            prefix = f"transformer.h.{layer}"
            yield from norm(f"{prefix}.ln_1", hidden, layer, bias=True)
            yield from norm(f"{prefix}.ln_2", hidden, layer, bias=True)
            yield from _transposed(f"{prefix}.attn.c_attn", hidden, 3 * hidden, layer)
            yield from _transposed(f"{prefix}.attn.c_proj", hidden, hidden, layer)
            yield from _transposed(f"{prefix}.mlp.c_fc", hidden, width, layer)
            yield from _transposed(f"{prefix}.mlp.c_proj", width, hidden, layer)
        yield from norm("transformer.ln_f", hidden, bias=True)
        if not tied:
            yield table("lm_head", frame.vocab_size, hidden, "head")

    caches = attention_caches(frame, (None,) * frame.layers)
    return model_shape(fields, frame, tensors(), caches, intermediate_size=width, tied=tied)


def opt(fields: ConfigFields) -> ModelShape:
    """arXiv:2205.01068; the 350M model has a narrower embedding and norms after its blocks."""
    frame = _plain_frame(fields)
    hidden, width = frame.hidden_size, fields.size("ffn_dim")
    narrow = fields.size("word_embed_proj_dim", default=hidden)
    bias = fields.flag("enable_bias", default=True)
    if not fields.flag("layer_norm_elementwise_affine", default=True):
        fields.problem("layer_norm_elementwise_affine is false, supported is true")
    tied = fields.flag("tie_word_embeddings", default=True)
    fields.check()
    ends_with_norm = fields.flag("do_layer_norm_before", default=True) and not fields.flag(
        "_remove_final_layer_norm"
    )

    def tensors() -> Iterator[TensorShape]:
        yield table("model.decoder.embed_tokens", frame.vocab_size, narrow)
        rows = frame.context_length + OPT_POSITION_OFFSET
        yield table("model.decoder.embed_positions", rows, hidden, "position")
        for layer in range(frame.layers):
            prefix = f"model.decoder.layers.{layer}"
            yield from norm(f"{prefix}.self_attn_layer_norm", hidden, layer, bias=True)
            yield from norm(f"{prefix}.final_layer_norm", hidden, layer, bias=True)
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield from linear(f"{prefix}.self_attn.{name}", hidden, hidden, layer, bias=bias)
            yield from linear(f"{prefix}.fc1", width, hidden, layer, bias=bias)
            yield from linear(f"{prefix}.fc2", hidden, width, layer, bias=bias)
        if narrow != hidden:
            yield from linear("model.decoder.project_in", hidden, narrow)
            yield from linear("model.decoder.project_out", narrow, hidden)
        if ends_with_norm:
            yield from norm("model.decoder.final_layer_norm", hidden, bias=True)
        if not tied:
            yield table("lm_head", frame.vocab_size, narrow, "head")

    caches = attention_caches(frame, (None,) * frame.layers)
    return model_shape(fields, frame, tensors(), caches, intermediate_size=width, tied=tied)


def gpt_neox(fields: ConfigFields) -> ModelShape:
    """Pythia and GPT-NeoX-20B: arXiv:2204.06745."""
    frame = _plain_frame(fields)
    hidden, width = frame.hidden_size, fields.size("intermediate_size")
    bias = fields.flag("attention_bias", default=True)
    tied = fields.flag("tie_word_embeddings")
    fields.check()

    def tensors() -> Iterator[TensorShape]:
        yield table("gpt_neox.embed_in", frame.vocab_size, hidden)
        for layer in range(frame.layers):
            prefix = f"gpt_neox.layers.{layer}"
            yield from norm(f"{prefix}.input_layernorm", hidden, layer, bias=True)
            yield from norm(f"{prefix}.post_attention_layernorm", hidden, layer, bias=True)
            yield from linear(f"{prefix}.attention.query_key_value", 3 * hidden, hidden, layer, bias=bias)
            yield from linear(f"{prefix}.attention.dense", hidden, hidden, layer, bias=bias)
            yield from linear(f"{prefix}.mlp.dense_h_to_4h", width, hidden, layer, bias=True)
            yield from linear(f"{prefix}.mlp.dense_4h_to_h", hidden, width, layer, bias=True)
        yield from norm("gpt_neox.final_layer_norm", hidden, bias=True)
        if not tied:
            yield table("embed_out", frame.vocab_size, hidden, "head")

    caches = attention_caches(frame, (None,) * frame.layers)
    return model_shape(fields, frame, tensors(), caches, intermediate_size=width, tied=tied)


def phi(fields: ConfigFields) -> ModelShape:
    """Phi 1, 1.5 and 2: attention and feed-forward side by side after one norm."""
    frame = read_frame(fields)
    hidden, width = frame.hidden_size, fields.size("intermediate_size")
    normed = fields.flag("qk_layernorm")
    tied = fields.flag("tie_word_embeddings")
    fields.check()

    def tensors() -> Iterator[TensorShape]:
        yield table("model.embed_tokens", frame.vocab_size, hidden)
        for layer in range(frame.layers):
            prefix = f"model.layers.{layer}"
            yield from norm(f"{prefix}.input_layernorm", hidden, layer, bias=True)
            for name, rows in (
                ("q_proj", frame.query_size),
                ("k_proj", frame.key_size),
                ("v_proj", frame.key_size),
            ):
                yield from linear(f"{prefix}.self_attn.{name}", rows, hidden, layer, bias=True)
            yield from linear(f"{prefix}.self_attn.dense", hidden, frame.query_size, layer, bias=True)
            for name in ("q_layernorm", "k_layernorm") if normed else ():
                yield from norm(f"{prefix}.self_attn.{name}", frame.head_dim, layer, bias=True)
            yield from linear(f"{prefix}.mlp.fc1", width, hidden, layer, bias=True)
            yield from linear(f"{prefix}.mlp.fc2", hidden, width, layer, bias=True)
        yield from norm("model.final_layernorm", hidden, bias=True)
        if not tied:
            yield table("lm_head", frame.vocab_size, hidden, "head")
        yield TensorShape("lm_head.bias", (frame.vocab_size,), "bias")

    caches = attention_caches(frame, (None,) * frame.layers)
    return model_shape(fields, frame, tensors(), caches, intermediate_size=width, tied=tied)


def _plain_frame(
    fields: ConfigFields,
    *,
    hidden: str = "hidden_size",
    layers: str = "num_hidden_layers",
    heads: str = "num_attention_heads",
    context: str = "max_position_embeddings",
) -> Frame:
    """Multi-head attention over the hidden size, under this family's field names."""
    require_language_model(fields)
    hidden_size, count = fields.size(hidden), fields.count(heads)
    return Frame(
        hidden_size=hidden_size,
        layers=fields.count(layers),
        heads=count,
        kv_heads=count,
        head_dim=divided_heads(fields, hidden_size, count),
        vocab_size=fields.size("vocab_size"),
        context_length=fields.size(context),
    )


def _transposed(name: str, inputs: int, outputs: int, layer: int) -> Iterator[TensorShape]:
    yield TensorShape(f"{name}.weight", (inputs, outputs), "linear", layer)
    yield TensorShape(f"{name}.bias", (outputs,), "bias", layer)
