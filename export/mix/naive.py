"""Mixes that measure nothing: what the chosen one has to beat at the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeport.export.families.decoder import DecoderSpec, TensorSpec
from edgeport.export.mix.groups import Assignment
from edgeport.scheme import TensorScheme


def more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's rule for layers that deserve them: the first and last eighth and every third in between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def llama_cpp_order(spec: DecoderSpec, items: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Embedding and head, then attn_v and ffn_down of the `more_bits` layers, of the others, then the rest by layer.

    The tensors and layers that llama.cpp's Q4_K_M gives more bits to, as an order in which to spend any number of bytes.
    """

    def rank(item: TensorSpec) -> tuple[int, int]:
        if item.role != "linear":
            return (0, 0)
        layer = int(item.name.split(".")[2])
        favoured = "v_proj" in item.name or "down_proj" in item.name
        return ((1 if more_bits(layer, spec.layers) else 2) if favoured else 3, layer)

    return sorted(items, key=rank)


def first_and_last_order(spec: DecoderSpec, items: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Embedding and head, then whole layers from both ends inwards."""

    def rank(item: TensorSpec) -> int:
        if item.role != "linear":
            return -1
        layer = int(item.name.split(".")[2])
        return min(layer, spec.layers - 1 - layer)

    return sorted(items, key=rank)


def spend(
    order: Sequence[TensorSpec], low: Assignment, high: TensorScheme, fits: Callable[[Assignment], bool]
) -> dict[str, TensorScheme]:
    """Start from `low`, give `high` to each tensor of `order` as long as the whole still fits."""
    assignment = dict(low)
    for item in order:
        tried = assignment | {item.name: high}
        if fits(tried):
            assignment = tried
    return assignment
