"""Grouped-query attention with a KV cache in variables, in the form that OpenVINO's transformations recognise.

Three of them decide speed: RoPEFusion (x * cos + concat(-x2, x1) * sin), StatefulSDPAFusion in the CPU plug-in (ReadValue,
Gather by beam_idx, Concat, Unsqueeze + Broadcast + Reshape for the shared heads, ScaledDotProductAttention, Assign) and
SDPAToPagedAttention, which openvino_genai runs by default. tests/unit/export/openvino sees them fire. Soft-capped scores no
operator of OpenVINO has: they are spelt out, and such a model runs with its cache in the variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op.util import Variable, VariableInfo

from edgeport.export.families.decoder import DecoderSpec, LayerShape
from edgeport.export.formats.openvino_constants import element, factor, reshape, scalar, vector
from edgeport.export.formats.openvino_masks import Masks
from edgeport.export.formats.openvino_norms import Norms
from edgeport.export.formats.openvino_rotary import Rotations, rotate

Node = Any

_KEYS_AT_ONCE = 256
"""Of products spelt out. The CPU plug-in makes a product's kernel for its shape, and keeps it: with each token's own number of
keys, 2000 tokens of a 4-layer model took 9 GB and 50 ms each (2026.4)."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The model's parameters, named as optimum-intel names them."""

    input_ids: Node  # [batch, seq] i64
    attention_mask: Node  # [batch, past + seq] i64, 0 for padding
    position_ids: Node  # [batch, seq] i64
    beam_idx: Node  # [batch] i32: which row of the cache each row continues

    def all(self) -> list[Node]:
        return [self.input_ids, self.attention_mask, self.position_ids, self.beam_idx]


@dataclass(frozen=True, slots=True)
class Shared:
    """What every layer uses and is computed once."""

    batch: Node  # [1] i64
    rotations: Rotations
    masks: Masks
    beam_idx: Node


def make_inputs() -> Inputs:
    def parameter(name: str, rank: int, kind: Any) -> Node:
        node = ops.parameter([-1] * rank, kind, name=name)
        node.output(0).get_tensor().set_names({name})
        return node

    return Inputs(
        parameter("input_ids", 2, ov.Type.i64),
        parameter("attention_mask", 2, ov.Type.i64),
        parameter("position_ids", 2, ov.Type.i64),
        parameter("beam_idx", 1, ov.Type.i32),
    )


def make_shared(inputs: Inputs, spec: DecoderSpec) -> Shared:
    shape = ops.shape_of(inputs.input_ids, output_type="i64")
    batch, length = element(shape, 0), element(shape, 1)
    rotations = Rotations(inputs.position_ids, spec.head_dim)
    multiple = 1 if spec.block.attention_softcap is None else _KEYS_AT_ONCE
    masks = Masks(inputs.attention_mask, batch, length, multiple)
    return Shared(batch, rotations, masks, inputs.beam_idx)


class Attention:
    """A layer's attention between the projections; collects the Assign nodes the model needs as sinks."""

    def __init__(self, spec: DecoderSpec, shared: Shared, norms: Norms) -> None:
        self._spec = spec
        self._shared = shared
        self._norms = norms
        self.variables: list[Any] = []
        self.sinks: list[Node] = []

    def __call__(self, layer: int, query: Node, key: Node, value: Node) -> Node:
        """Projections [batch, seq, heads * head_dim] -> mixed values [batch, seq, heads * head_dim]."""
        shape = self._spec.layer_shape(layer)
        queries = self._turned(layer, "q", query, shape.heads)
        keys = self._turned(layer, "k", key, shape.kv_heads)
        keys = self._cached(f"{layer}.key", keys, shape.kv_heads)
        values = self._cached(f"{layer}.value", self._split(value, shape.kv_heads), shape.kv_heads)
        spelt_out = self._spec.block.attention_softcap is not None
        mixed = (self._mix_capped if spelt_out else self._mix)(layer, queries, keys, values)
        return reshape(_swap(mixed), 0, 0, shape.heads * self._spec.head_dim)

    def _turned(self, layer: int, part: str, projected: Node, heads: int) -> Node:
        """Query or key heads after their norm, where the family has one, and after rotation: [batch, heads, seq, head_dim]."""
        kind, width = self._spec.block.query_key_norm, self._spec.head_dim
        name = f"model.layers.{layer}.self_attn.{part}_norm.weight"
        if kind == "all":
            projected = self._norms(projected, name, heads * width)
        split = reshape(projected, 0, 0, heads, width)
        if kind == "head":
            split = self._norms(split, name, width)
        rotation = self._shared.rotations.of(self._spec.layer_rope(layer))
        return rotate(_swap(split), rotation, width)

    def _split(self, projected: Node, heads: int) -> Node:
        """[batch, seq, heads * head_dim] -> [batch, heads, seq, head_dim]."""
        return _swap(reshape(projected, 0, 0, heads, self._spec.head_dim))

    def _cached(self, name: str, new: Node, kv_heads: int) -> Node:
        """Past and new along the sequence axis; the variable starts empty and is named as optimum-intel names it."""
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, kv_heads, -1, self._spec.head_dim])
        info.data_type = ov.Type.f32
        info.variable_id = f"past_key_values.{name}present.{name}"
        variable = Variable(info)
        sizes = [self._shared.batch, vector(kv_heads), vector(0), vector(self._spec.head_dim)]
        empty = ops.broadcast(ops.constant(np.float32(0.0)), ops.concat(sizes, axis=0))
        past = ops.gather(ops.read_value(empty, variable), self._shared.beam_idx, scalar(0))
        present = ops.concat([past, new], axis=2)
        self.variables.append(variable)
        self.sinks.append(ops.assign(present, variable))
        return present

    def _mix(self, layer: int, queries: Node, keys: Node, values: Node) -> Node:
        """ScaledDotProductAttention over the cache; its scale is an input where it is not head_dim ** -0.5."""
        mask = self._shared.masks.of(self._spec.window(layer))
        keys, values = (self._repeat(heads, self._spec.layer_shape(layer)) for heads in (keys, values))
        if self._spec.block.attention_scale is None:
            return ops.scaled_dot_product_attention(queries, keys, values, mask, causal=False)
        scale = ops.constant(np.float32(self._spec.attention_scale))
        return ops.scaled_dot_product_attention(queries, keys, values, mask, scale, causal=False)

    def _mix_capped(self, layer: int, queries: Node, keys: Node, values: Node) -> Node:
        """softmax(cap * tanh(q k' * scale / cap) + mask) v (Gemma 2, arXiv:2408.00118).

        The query heads of a key-value head are stacked along the sequence, so that the cache is not copied for each. Keys and
        values are lengthened by zeros that the mask hides.
        """
        shape, width = self._spec.layer_shape(layer), self._spec.head_dim
        cap = self._spec.block.attention_softcap
        assert cap is not None
        keys, values = (self._lengthened(heads, shape.kv_heads) for heads in (keys, values))
        stacked = reshape(queries, 0, shape.kv_heads, -1, width)
        products = ops.matmul(stacked, keys, transpose_a=False, transpose_b=True)
        capped = ops.tanh(ops.multiply(products, factor(self._spec.attention_scale / cap, 4)))
        # [batch, heads, seq, past + seq + rest]
        scores = reshape(ops.multiply(capped, factor(cap, 4)), 0, shape.heads, -1, 0)
        scores = ops.add(scores, self._shared.masks.of(self._spec.window(layer)))
        shares = reshape(ops.softmax(scores, axis=-1), 0, shape.kv_heads, -1, 0)
        mixed = ops.matmul(shares, values, transpose_a=False, transpose_b=False)
        return reshape(mixed, 0, shape.heads, -1, width)

    def _lengthened(self, heads: Node, kv_heads: int) -> Node:
        """[batch, kv_heads, all, d] -> [batch, kv_heads, all + rest, d]."""
        sizes = [self._shared.batch, vector(kv_heads), self._shared.masks.rest, vector(self._spec.head_dim)]
        zeros = ops.broadcast(ops.constant(np.float32(0.0)), ops.concat(sizes, axis=0))
        return ops.concat([heads, zeros], axis=2)

    def _repeat(self, heads: Node, shape: LayerShape) -> Node:
        """Each key or value head once per query head of its group: [batch, kv_heads, all, d] -> [batch, heads, all, d]."""
        if shape.kv_heads == shape.heads:
            return heads
        group = shape.heads // shape.kv_heads
        widened = ops.broadcast(
            ops.unsqueeze(heads, vector(2)), vector(1, 1, group, 1, 1), broadcast_spec="BIDIRECTIONAL"
        )
        return reshape(widened, 0, shape.heads, -1, self._spec.head_dim)


def _swap(node: Node) -> Node:
    """Sequence and heads change places."""
    return ops.transpose(node, vector(0, 2, 1, 3))
