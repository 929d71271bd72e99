"""Bytes of a model under a recipe, before anything is written."""

from __future__ import annotations

from edgeport.export.families.decoder import EMBEDDING, DecoderSpec, TensorSpec
from edgeport.export.recipe import Recipe
from edgeport.manifest import ModelFacts
from edgeport.scheme import TensorScheme


def model_facts(spec: DecoderSpec, recipe: Recipe) -> ModelFacts:
    parameters = spec.parameters()
    return ModelFacts(
        family=spec.family,
        parameters=parameters,
        layers=spec.layers,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
        context_length=spec.context_length,
        tied_embeddings=spec.tied_embeddings,
        bits_per_weight=checkpoint_bytes(spec, recipe) * 8 / parameters,
        kv_bytes_per_token=spec.kv_bytes_per_token(),
    )


def checkpoint_bytes(spec: DecoderSpec, recipe: Recipe) -> int:
    return sum(stored_bytes(item, recipe.scheme_for(item)) for item in spec.tensors())


def packed_bytes(spec: DecoderSpec, recipe: Recipe, format_name: str) -> int:
    """Bytes of the weights in one container. GGUF repeats scales per 32; packed safetensors keeps the embedding in float16."""
    total = 0
    for item in spec.tensors():
        scheme = recipe.scheme_for(item)
        if scheme.is_quantized and format_name == "gguf":
            scheme = TensorScheme(scheme.kind, 32)
        if scheme.is_quantized and format_name == "safetensors" and item.name == EMBEDDING:
            scheme = TensorScheme("f16")
        total += stored_bytes(item, scheme)
    return total


def stored_bytes(item: TensorSpec, scheme: TensorScheme) -> int:
    count = 1
    for size in item.shape:
        count *= size
    return round(count * scheme.bits_per_weight / 8)
