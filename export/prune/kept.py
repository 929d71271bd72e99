"""What is kept of a model, as indices into the source, and what that makes of each of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.export.families.decoder import EMBEDDING, FINAL_NORM, HEAD
from edgeport.export.source import SourceModel

Indices = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

AXES: Mapping[str, tuple[str, ...]] = {
    "input_layernorm.weight": ("hidden",),
    "self_attn.q_proj.weight": ("query", "hidden"),
    "self_attn.q_proj.bias": ("query",),
    "self_attn.k_proj.weight": ("key_value", "hidden"),
    "self_attn.k_proj.bias": ("key_value",),
    "self_attn.v_proj.weight": ("key_value", "hidden"),
    "self_attn.v_proj.bias": ("key_value",),
    "self_attn.o_proj.weight": ("hidden", "query"),
    "self_attn.o_proj.bias": ("hidden",),
    "post_attention_layernorm.weight": ("hidden",),
    "mlp.gate_proj.weight": ("ffn", "hidden"),
    "mlp.gate_proj.bias": ("ffn",),
    "mlp.up_proj.weight": ("ffn", "hidden"),
    "mlp.up_proj.bias": ("ffn",),
    "mlp.down_proj.weight": ("hidden", "ffn"),
    "mlp.down_proj.bias": ("hidden",),
}
"""What runs along each axis of a layer's tensors."""
_OUTER_AXES = {EMBEDDING: ("token", "hidden"), HEAD: ("token", "hidden"), FINAL_NORM: ("hidden",)}
_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight", FINAL_NORM)


@dataclass(frozen=True, slots=True)
class Kept:
    """Ascending indices; None, or a layer that is not in a mapping, keeps everything.

    layers: source layers, in order. hidden: hidden channels. ffn: feed-forward channels by source layer. query_heads,
    kv_heads: attention heads by source layer. tokens: rows of embedding and head.
    """

    layers: tuple[int, ...]
    hidden: Indices | None = None
    ffn: Mapping[int, Indices] = field(default_factory=dict)
    query_heads: Mapping[int, Indices] = field(default_factory=dict)
    kv_heads: Mapping[int, Indices] = field(default_factory=dict)
    tokens: Indices | None = None

    def channels(self, axis: str, layer: int, head_dim: int) -> Indices | None:
        """Indices along an axis of AXES, of a source layer."""
        if axis == "hidden":
            return self.hidden
        if axis == "token":
            return self.tokens
        if axis == "ffn":
            return self.ffn.get(layer)
        heads = (self.query_heads if axis == "query" else self.kv_heads).get(layer)
        return None if heads is None else head_channels(heads, head_dim)


def head_channels(heads: Indices, head_dim: int) -> Indices:
    """[heads] -> [heads * head_dim]"""
    return (heads[:, None] * head_dim + np.arange(head_dim)).reshape(-1)


def source_name(name: str, kept: Kept) -> tuple[str, int]:
    """Name and layer in the source of a tensor of the cut model; layer -1 for those outside the layers."""
    if not name.startswith("model.layers."):
        return name, -1
    _, _, number, rest = name.split(".", 3)
    layer = kept.layers[int(number)]
    return f"model.layers.{layer}.{rest}", layer


def cut_tensor(source: SourceModel, kept: Kept, name: str) -> Array:
    """Tensor `name` of the cut model, in the source's dtype.

    A norm over fewer channels divides by another mean: with eps * kept / all in the configuration and the weight times
    sqrt(all / kept) it equals the norm over all channels of which the dropped ones are zero, exactly.
    """
    origin, layer = source_name(name, kept)
    values = source.tensor(origin)
    rest = origin.split(".", 3)[3] if layer >= 0 else origin
    axes = AXES[rest] if layer >= 0 else _OUTER_AXES[origin]
    cut = values
    for number, axis in enumerate(axes):
        indices = kept.channels(axis, layer, source.spec.head_dim)
        if indices is not None:
            cut = np.take(cut, indices, axis=number)
    if kept.hidden is not None and rest in _NORMS:
        factor = np.sqrt(source.spec.hidden_size / len(kept.hidden))
        cut = (cut.astype(np.float64) * factor).astype(values.dtype)
    return cut
