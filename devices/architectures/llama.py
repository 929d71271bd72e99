"""Llama and the dense decoders built like it: RMSNorm, grouped-query attention, a gated feed-forward part.

Families differ in biases, in norms around and inside the attention, in fused matrices and in sliding windows; a `Style`
says which. Names and defaults follow transformers' modeling_*.py of each family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from edgeport.devices.architectures.fields import ConfigFields
from edgeport.devices.architectures.parts import (
    REQUIRED,
    Defaults,
    Frame,
    attention_caches,
    layer_windows,
    linear,
    model_shape,
    norm,
    read_frame,
    table,
)
from edgeport.devices.shape import ModelShape, TensorShape

FeedForward = Callable[[int], Iterator[TensorShape]]
PRE_NORMS = ("input_layernorm", "post_attention_layernorm")
OLMO2_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
GEMMA2_NORMS = (*PRE_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
GEMMA3_DEFAULTS = Defaults(heads=8, kv_heads=4, head_dim=256, vocab_size=262_208, context_length=131_072)


@dataclass(frozen=True, slots=True)
class Style:
    """query_key_norm: a norm over each head's features, or over all of them together. fused: one matrix for q, k and v."""

    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    norms: tuple[str, ...] = PRE_NORMS
    query_key_norm: Literal["", "head", "all"] = ""
    fused: bool = False


PLAIN = Style()


def llama(fields: ConfigFields) -> ModelShape:
    """Llama 1 to 3.x, SmolLM, TinyLlama: arXiv:2302.13971, arXiv:2407.21783."""
    bias = fields.flag("attention_bias")
    return dense(fields, Style(qkv_bias=bias, output_bias=bias, mlp_bias=fields.flag("mlp_bias")))


def mistral(fields: ConfigFields) -> ModelShape:
    """Every layer slides where a window is given (arXiv:2310.06825)."""
    return dense(fields, Style(), slides=_always)


def qwen2(fields: ConfigFields) -> ModelShape:
    """Biases on q, k and v; with use_sliding_window the layers from max_window_layers on slide (arXiv:2407.10671)."""
    return dense(fields, Style(qkv_bias=True), slides=_from_max_window_layers(fields))


def qwen3(fields: ConfigFields) -> ModelShape:
    bias = fields.flag("attention_bias")
    style = Style(qkv_bias=bias, output_bias=bias, query_key_norm="head")
    return dense(fields, style, slides=_from_max_window_layers(fields))


def olmo2(fields: ConfigFields) -> ModelShape:
    """Norms after the attention and the feed-forward part only (arXiv:2501.00656)."""
    bias = fields.flag("attention_bias")
    return dense(fields, Style(bias, bias, norms=OLMO2_NORMS, query_key_norm="all"))


def phi3(fields: ConfigFields) -> ModelShape:
    """Phi-3 and Phi-4: q, k, v in one matrix, gate and up in another (arXiv:2404.14219)."""
    return dense(fields, Style(fused=True), slides=_always)


def gemma(fields: ConfigFields) -> ModelShape:
    bias = fields.flag("attention_bias")
    return dense(fields, Style(bias, bias), defaults=Defaults(head_dim=256), tied=True)


def gemma2(fields: ConfigFields) -> ModelShape:
    """Every other layer slides, beginning with the first (arXiv:2408.00118)."""
    bias = fields.flag("attention_bias")
    style = Style(bias, bias, norms=GEMMA2_NORMS)
    return dense(
        fields, style, defaults=Defaults(head_dim=256), tied=True, slides=lambda layer: layer % 2 == 0
    )


def gemma3(fields: ConfigFields) -> ModelShape:
    """Five layers slide for each that does not (arXiv:2503.19786). Sizes a file leaves out are the 4B model's."""
    bias = fields.flag("attention_bias")
    pattern = fields.count("sliding_window_pattern", "_sliding_window_pattern", default=6)
    style = Style(bias, bias, norms=GEMMA2_NORMS, query_key_norm="head")
    return dense(
        fields, style, defaults=GEMMA3_DEFAULTS, tied=True, slides=lambda layer: (layer + 1) % pattern != 0
    )


def dense(
    fields: ConfigFields,
    style: Style,
    *,
    defaults: Defaults = REQUIRED,
    tied: bool = False,
    slides: Callable[[int], bool] | None = None,
) -> ModelShape:
    """tied: whether the head is the embedding where the file does not say."""
    frame = read_frame(fields, defaults)
    width = fields.size("intermediate_size")
    windows = read_windows(fields, frame, slides)
    is_tied = fields.flag("tie_word_embeddings", default=tied)
    fields.check()

    def feed_forward(layer: int) -> Iterator[TensorShape]:
        return gated(f"model.layers.{layer}.mlp", frame.hidden_size, width, layer, style)

    tensors = decoder_tensors(frame, style, feed_forward, tied=is_tied)
    caches = attention_caches(frame, windows)
    return model_shape(fields, frame, tensors, caches, intermediate_size=width, tied=is_tied)


def read_windows(
    fields: ConfigFields, frame: Frame, slides: Callable[[int], bool] | None
) -> tuple[int | None, ...]:
    window = fields.optional_size("sliding_window") if slides is not None else None
    if window is None or slides is None:
        return (None,) * frame.layers
    return layer_windows(fields, frame.layers, window, slides)


def decoder_tensors(
    frame: Frame, style: Style, feed_forward: FeedForward, *, tied: bool
) -> Iterator[TensorShape]:
    """Everything but what `feed_forward` gives for each layer."""
    yield table("model.embed_tokens", frame.vocab_size, frame.hidden_size)
    for layer in range(frame.layers):
        prefix = f"model.layers.{layer}"
        for name in style.norms:
            yield from norm(f"{prefix}.{name}", frame.hidden_size, layer)
        yield from attention(f"{prefix}.self_attn", frame, layer, style)
        yield from feed_forward(layer)
    yield from norm("model.norm", frame.hidden_size)
    if not tied:
        yield table("lm_head", frame.vocab_size, frame.hidden_size, "head")


def attention(prefix: str, frame: Frame, layer: int, style: Style) -> Iterator[TensorShape]:
    hidden, query, key = frame.hidden_size, frame.query_size, frame.key_size
    if style.fused:
        yield from linear(f"{prefix}.qkv_proj", query + 2 * key, hidden, layer, bias=style.qkv_bias)
    else:
        for name, rows in (("q_proj", query), ("k_proj", key), ("v_proj", key)):
            yield from linear(f"{prefix}.{name}", rows, hidden, layer, bias=style.qkv_bias)
    yield from linear(f"{prefix}.o_proj", hidden, query, layer, bias=style.output_bias)
    if style.query_key_norm:
        whole = style.query_key_norm == "all"
        yield from norm(f"{prefix}.q_norm", query if whole else frame.head_dim, layer)
        yield from norm(f"{prefix}.k_norm", key if whole else frame.head_dim, layer)


def gated(prefix: str, hidden: int, width: int, layer: int, style: Style = PLAIN) -> Iterator[TensorShape]:
    """down(activation(gate(x)) * up(x))"""
    if style.fused:
        yield from linear(f"{prefix}.gate_up_proj", 2 * width, hidden, layer, bias=style.mlp_bias)
    else:
        yield from linear(f"{prefix}.gate_proj", width, hidden, layer, bias=style.mlp_bias)
        yield from linear(f"{prefix}.up_proj", width, hidden, layer, bias=style.mlp_bias)
    yield from linear(f"{prefix}.down_proj", hidden, width, layer, bias=style.mlp_bias)


def _always(layer: int) -> bool:
    return True


def _from_max_window_layers(fields: ConfigFields) -> Callable[[int], bool] | None:
    if not fields.flag("use_sliding_window"):
        return None
    first = fields.optional_count("max_window_layers")
    return lambda layer: layer >= first
