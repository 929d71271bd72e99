"""A model with a narrower feed-forward part, as `edgeport prune --ffn` would leave it: shapes only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeport.devices.shape import ModelShape, TensorShape

SNAP = 32
"""Pruned widths are whole blocks; packed safetensors wants 128 (vLLM's Marlin kernels) and a K-quant 256 (llama.cpp)."""
SMALLEST_SHARE = 0.5
"""Less of the feed-forward part is another model, not a pruned one."""
ATTENTION = ("attn", "attention")


PRUNED = ("llama", "mistral", "qwen2")
"""Families whose layers are Llama's; with a window they are not."""


def can_prune(shape: ModelShape) -> bool:
    """Whether `edgeport prune --ffn` knows this kind of model: Llama's layers, with one width for all of them."""
    slides = any(cache.tokens(shape.context_length) < shape.context_length for cache in shape.caches)
    return shape.family in PRUNED and not slides and shape.intermediate_size > shape.hidden_size > 0


def snap_for(format_name: str, precision: str) -> int:
    """What a pruned width is a multiple of, as `edgeport prune` rounds it for this container."""
    if precision.startswith("q") and "_k" in precision:
        return 256
    return 128 if format_name == "safetensors" else SNAP


def widths(shape: ModelShape, *, snap: int = SNAP) -> Sequence[int]:
    """Feed-forward widths from the present one down to the narrowest that is worth trying."""
    if not can_prune(shape):
        return (shape.intermediate_size,)
    first = (shape.intermediate_size - 1) // snap * snap
    lowest = max(snap, round(shape.intermediate_size * SMALLEST_SHARE))
    return (shape.intermediate_size, *range(first, lowest - 1, -snap))


def with_ffn_width(shape: ModelShape, width: int) -> ModelShape:
    """The same model with every feed-forward part `width` wide; attention, embeddings and caches stay."""
    if width == shape.intermediate_size:
        return shape
    tensors = tuple(_narrow(tensor, shape, width) for tensor in shape.tensors)
    return replace(shape, tensors=tensors, intermediate_size=width)


def _narrow(tensor: TensorShape, shape: ModelShape, width: int) -> TensorShape:
    in_ffn = tensor.layer is not None and tensor.role in ("linear", "bias")
    if not in_ffn or any(word in tensor.name for word in ATTENTION):
        return tensor
    return replace(
        tensor, shape=tuple(width if size == shape.intermediate_size else size for size in tensor.shape)
    )
