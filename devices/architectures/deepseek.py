"""DeepSeek V2 and V3: multi-head latent attention, dense layers first, then experts (arXiv:2405.04434, arXiv:2412.19437).

Keys and values are compressed to one vector of kv_lora_rank + qk_rope_head_dim features per token, which is what llama.cpp
and vLLM keep. The extra layer V3 predicts a second token with is not part of the model transformers opens, nor of this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from edgeport.devices.architectures.fields import ConfigFields
from edgeport.devices.architectures.llama import gated
from edgeport.devices.architectures.mixture import expert_tensors
from edgeport.devices.architectures.parts import (
    Frame,
    linear,
    model_shape,
    norm,
    require_language_model,
    table,
)
from edgeport.devices.shape import CacheShape, ModelShape, TensorShape


@dataclass(frozen=True, slots=True)
class _Latent:
    """query_rank: None where queries are not compressed."""

    query_rank: int | None
    rank: int
    plain_dim: int
    rotary_dim: int
    value_dim: int
    bias: bool


@dataclass(frozen=True, slots=True)
class _Experts:
    count: int
    chosen: int
    shared: int
    width: int
    dense_layers: int


def deepseek_v2(fields: ConfigFields) -> ModelShape:
    return _deepseek(fields, corrected_router=False)


def deepseek_v3(fields: ConfigFields) -> ModelShape:
    return _deepseek(fields, corrected_router=True)


def _deepseek(fields: ConfigFields, *, corrected_router: bool) -> ModelShape:
    require_language_model(fields)
    latent = _Latent(
        query_rank=fields.optional_size("q_lora_rank"),
        rank=fields.size("kv_lora_rank"),
        plain_dim=fields.size("qk_nope_head_dim"),
        rotary_dim=fields.size("qk_rope_head_dim"),
        value_dim=fields.size("v_head_dim"),
        bias=fields.flag("attention_bias"),
    )
    heads = fields.count("num_attention_heads")
    frame = Frame(
        hidden_size=fields.size("hidden_size"),
        layers=fields.count("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=latent.plain_dim + latent.rotary_dim,
        vocab_size=fields.size("vocab_size"),
        context_length=fields.size("max_position_embeddings"),
    )
    mixture = _Experts(
        count=fields.count("n_routed_experts"),
        chosen=fields.count("num_experts_per_tok"),
        shared=fields.optional_count("n_shared_experts"),
        width=fields.size("moe_intermediate_size"),
        dense_layers=fields.optional_count("first_k_dense_replace"),
    )
    dense_width = fields.size("intermediate_size")
    if fields.count("moe_layer_freq", default=1) != 1:
        fields.problem("moe_layer_freq is not 1, the only value a published model has")
    tied = fields.flag("tie_word_embeddings")
    fields.check()
    tensors = _tensors(frame, latent, mixture, dense_width, corrected_router)
    head = () if tied else (table("lm_head", frame.vocab_size, frame.hidden_size, "head"),)
    caches = (CacheShape(1, latent.rank + latent.rotary_dim, 0),) * frame.layers
    widest = max(dense_width, mixture.width)
    shape = model_shape(fields, frame, (*tensors, *head), caches, intermediate_size=widest, tied=tied)
    return dataclasses.replace(shape, experts=mixture.count, experts_per_token=mixture.chosen)


def _tensors(
    frame: Frame, latent: _Latent, mixture: _Experts, dense_width: int, corrected_router: bool
) -> Iterator[TensorShape]:
    hidden = frame.hidden_size
    yield table("model.embed_tokens", frame.vocab_size, hidden)
    for layer in range(frame.layers):
        prefix = f"model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield from norm(f"{prefix}.{name}", hidden, layer)
        yield from _attention(f"{prefix}.self_attn", frame, latent, layer)
        if layer < mixture.dense_layers:
            yield from gated(f"{prefix}.mlp", hidden, dense_width, layer)
        else:
            yield from _experts(f"{prefix}.mlp", hidden, mixture, layer, corrected_router)
    yield from norm("model.norm", hidden)


def _attention(prefix: str, frame: Frame, latent: _Latent, layer: int) -> Iterator[TensorShape]:
    hidden, query = frame.hidden_size, frame.heads * frame.head_dim
    if latent.query_rank is None:
        yield from linear(f"{prefix}.q_proj", query, hidden, layer)
    else:
        yield from linear(f"{prefix}.q_a_proj", latent.query_rank, hidden, layer, bias=latent.bias)
        yield from norm(f"{prefix}.q_a_layernorm", latent.query_rank, layer)
        yield from linear(f"{prefix}.q_b_proj", query, latent.query_rank, layer)
    compressed = latent.rank + latent.rotary_dim
    yield from linear(f"{prefix}.kv_a_proj_with_mqa", compressed, hidden, layer, bias=latent.bias)
    yield from norm(f"{prefix}.kv_a_layernorm", latent.rank, layer)
    expanded = frame.heads * (latent.plain_dim + latent.value_dim)
    yield from linear(f"{prefix}.kv_b_proj", expanded, latent.rank, layer)
    yield from linear(f"{prefix}.o_proj", hidden, frame.heads * latent.value_dim, layer, bias=latent.bias)


def _experts(
    prefix: str, hidden: int, mixture: _Experts, layer: int, corrected_router: bool
) -> Iterator[TensorShape]:
    yield from expert_tensors(prefix, hidden, mixture.width, layer, mixture.count)
    if corrected_router:
        yield TensorShape(f"{prefix}.gate.e_score_correction_bias", (mixture.count,), "bias", layer)
    if mixture.shared:
        yield from gated(f"{prefix}.shared_experts", hidden, mixture.shared * mixture.width, layer)
