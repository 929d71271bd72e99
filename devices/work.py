"""What a decoded token reads and what a prompt computes, from a model's shape and the bytes its weights take. Pure.

Bytes: every weight a token goes through, without an embedding table that only gives one row (a tied one is the head and is
read whole), of the experts only the chosen ones, and the KV cache as deep as it is. Operations: two per active parameter
and token (a multiply and an add), and the products of attention, which grow with the square of the prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from edgeport.devices.kv_cache import LLAMA_CPP_WINDOWS, RULES
from edgeport.devices.memory import ENGINES
from edgeport.devices.shape import CacheShape, ModelShape
from edgeport.errors import UsageError

SCALE_BITS_PER_WEIGHT = 0.5
"""A 16-bit scale per block of 32 weights."""
FLOAT_BITS = 12
"""Weights of more bits than this are floats without scales."""
EVERY_ROW_ENGINES = ("onnxruntime", "openvino", "reference")
"""Engines whose graph computes the head for each prompt token; the others compute it for the last one."""


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Bytes of a container's weights by when they are read.

    layers_bytes: by every token. expert_bytes: all experts together. head_bytes: the head, which may be the embedding table.
    table_bytes: tables of which a token reads one row.
    """

    layers_bytes: float
    expert_bytes: float
    head_bytes: float
    table_bytes: float


@dataclass(frozen=True, slots=True)
class DecodeWork:
    """One step that decodes a token of each of `batch` sequences. Bytes and operations are of the whole step; attention's
    operations are among them, and apart."""

    layers_bytes: float
    head_bytes: float
    cache_bytes: float
    operations: float
    layers: int
    batch: int = 1
    attention_operations: float = 0.0

    @property
    def read_bytes(self) -> int:
        return round(self.layers_bytes + self.head_bytes + self.cache_bytes)


@dataclass(frozen=True, slots=True)
class PromptWork:
    """A prompt of `tokens` tokens, read in `chunks` pieces which each read the weights once."""

    tokens: int
    operations: float
    head_operations: float
    attention_operations: float
    weights_bytes: float
    layers: int
    chunks: int


def stored_weights(shape: ModelShape, weights_bytes: int, bits: float) -> StoredWeights:
    """Divide `weights_bytes` among the parts of a model whose decoder matrices have `bits`.

    Matrices take their bits and a scale per block, what is not a matrix float32, and the embedding and the head what is left:
    recipes keep them in more bits. Where that cannot be (another scheme), every parameter takes the same. Tensors that know
    their bits, as those of a file, are taken at their word. Raises UsageError for no bytes and no parameters.
    """
    if weights_bytes <= 0 or not shape.parameters:
        raise UsageError(
            f"cannot divide {weights_bytes} bytes of weights among the {shape.parameters} parameters of {shape.name}",
            hint="give the size of the container's weights",
        )
    if all(tensor.bits is not None for tensor in shape.tensors):
        return _from_file(shape, weights_bytes)
    counts = _counts(shape)
    matrix = (bits + (SCALE_BITS_PER_WEIGHT if bits < FLOAT_BITS else 0)) / 8
    outside = counts.head_bytes + counts.table_bytes
    small = shape.parameters_of(("norm", "bias", "convolution", "router", "other"))
    left = weights_bytes - matrix * (counts.layers_bytes - small + counts.expert_bytes) - 4 * small
    each = left / outside if outside else 0.0
    if not bits / 8 <= each <= 4.5:
        each_of_all = weights_bytes / shape.parameters
        return StoredWeights(*(part * each_of_all for part in _parts(counts)))
    return StoredWeights(
        matrix * (counts.layers_bytes - small) + 4 * small,
        matrix * counts.expert_bytes,
        each * counts.head_bytes,
        each * counts.table_bytes,
    )


def nominal_bits(shape: ModelShape, weights_bytes: int) -> int:
    """Which of 4, 8, 16 and 32 bits per matrix weight, with embedding and head in 8 or more, comes nearest to `weights_bytes`."""
    counts = _counts(shape)
    matrices = counts.layers_bytes + counts.expert_bytes

    def total(bits: int) -> float:
        outside = max(bits, 8)
        scales = [SCALE_BITS_PER_WEIGHT if each < FLOAT_BITS else 0.0 for each in (bits, outside)]
        tables = counts.head_bytes + counts.table_bytes
        return (matrices * (bits + scales[0]) + tables * (outside + scales[1])) / 8

    return min((4, 8, 16, 32), key=lambda bits: abs(math.log(weights_bytes / total(bits))))


def decode_work(
    shape: ModelShape, weights: StoredWeights, *, depth: int, batch: int, kv_bits: int
) -> DecodeWork:
    """One step with `depth` tokens in the cache of each sequence."""
    return DecodeWork(
        layers_bytes=weights.layers_bytes + weights.expert_bytes * experts_read(shape, batch),
        head_bytes=weights.head_bytes,
        cache_bytes=batch * cache_bytes(shape, depth, kv_bits=kv_bits),
        operations=batch * (2 * shape.active_parameters + attention_operations(shape, 1, depth=depth)),
        layers=shape.layers,
        batch=batch,
        attention_operations=batch * attention_operations(shape, 1, depth=depth),
    )


def prompt_work(
    shape: ModelShape, weights: StoredWeights, engine: str, *, tokens: int, depth: int = 0
) -> PromptWork:
    """A prompt of `tokens` tokens that follows `depth` tokens in the cache."""
    if engine not in ENGINES:
        raise UsageError(f"no model of engine '{engine}'", hint=f"engines: {', '.join(ENGINES)}")
    head = head_parameters(shape)
    chunk = max(1, min(ENGINES[engine].chunk_tokens, tokens))
    return PromptWork(
        tokens=tokens,
        operations=2 * tokens * (shape.active_parameters - head),
        head_operations=2 * head * (tokens if engine in EVERY_ROW_ENGINES else 1),
        attention_operations=attention_operations(shape, tokens, depth=depth),
        weights_bytes=weights.layers_bytes
        + weights.head_bytes
        + weights.expert_bytes * experts_read(shape, chunk),
        layers=shape.layers,
        chunks=-(-tokens // chunk),
    )


def as_cached(shape: ModelShape, engine: str) -> ModelShape:
    """The shape with the caches `engine` keeps and reads: without windows where it does not apply them."""
    slides = engine in RULES and RULES[engine].windows
    if slides and (engine != "llama.cpp" or shape.family in LLAMA_CPP_WINDOWS):
        return shape
    return replace(shape, caches=tuple(replace(cache, window=None) for cache in shape.caches))


def kv_bits_of(engine: str) -> int:
    """Bits of one value in the KV cache our sessions of `engine` allocate. Raises UsageError for an unknown engine."""
    if engine not in ENGINES:
        raise UsageError(f"no model of engine '{engine}'", hint=f"engines: {', '.join(ENGINES)}")
    return RULES[engine].default_bits


def head_parameters(shape: ModelShape) -> int:
    return shape.parameters_of(("embedding",) if shape.tied_embeddings else ("head",))


def experts_read(shape: ModelShape, tokens: int) -> float:
    """Expected share of a layer's experts that `tokens` tokens choose, each as if at random."""
    if not shape.experts:
        return 1.0
    return float(1 - (1 - shape.experts_per_token / shape.experts) ** tokens)


def cache_bytes(shape: ModelShape, depth: int, *, kv_bits: int) -> float:
    """Bytes of keys, values and states that one token reads after `depth` tokens; 8 bits and fewer carry block scales."""
    bits = kv_bits + (SCALE_BITS_PER_WEIGHT if kv_bits <= 8 else 0)
    return sum(
        cache.tokens(depth) * cache.values_per_token * bits / 8 + cache.state_bytes for cache in shape.caches
    )


def attention_operations(shape: ModelShape, tokens: int, *, depth: int = 0) -> float:
    """Operations of queries with keys and of weights with values, for `tokens` new tokens after `depth`."""
    return sum(
        2 * shape.heads * _head_dims(shape, cache) * _positions_seen(cache, tokens, depth)
        for cache in shape.caches
        if cache.kv_heads
    )


def _head_dims(shape: ModelShape, cache: CacheShape) -> int:
    """Products per head and position: the key's and the value's length. A compressed vector serves as both."""
    return cache.key_dim + (cache.value_dim or max(shape.head_dim, cache.key_dim))


def _positions_seen(cache: CacheShape, tokens: int, depth: int) -> float:
    """Sum over the new tokens of how many positions each attends to, itself included."""
    window = cache.window
    if window is None or depth + tokens <= window:
        return tokens * depth + tokens * (tokens + 1) / 2
    growing = max(0, min(tokens, window - depth))
    return growing * depth + growing * (growing + 1) / 2 + (tokens - growing) * window


def _counts(shape: ModelShape) -> StoredWeights:
    """Parameters instead of bytes."""
    expert = shape.parameters_of(("expert",))
    head = head_parameters(shape)
    table = shape.parameters_of(("position",))
    table += 0 if shape.tied_embeddings else shape.parameters_of(("embedding",))
    return StoredWeights(shape.parameters - expert - head - table, expert, head, table)


def _parts(weights: StoredWeights) -> tuple[float, float, float, float]:
    return weights.layers_bytes, weights.expert_bytes, weights.head_bytes, weights.table_bytes


def _from_file(shape: ModelShape, weights_bytes: int) -> StoredWeights:
    parts = {"layers": 0.0, "expert": 0.0, "head": 0.0, "table": 0.0}
    for tensor in shape.tensors:
        part = "layers"
        if tensor.role in ("expert", "head"):
            part = tensor.role
        elif tensor.role == "position":
            part = "table"
        elif tensor.role == "embedding":
            part = "head" if shape.tied_embeddings else "table"
        parts[part] += tensor.parameters * (tensor.bits or 0.0) / 8
    scale = weights_bytes / max(1.0, sum(parts.values()))
    return StoredWeights(*(scale * size for size in parts.values()))
