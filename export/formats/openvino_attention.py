"""Grouped-query attention with a KV cache in variables, in the form that OpenVINO's transformations recognise.

Three of them decide speed: RoPEFusion (x * cos + concat(-x2, x1) * sin), StatefulSDPAFusion in the CPU plug-in (ReadValue,
Gather by beam_idx, Concat, Unsqueeze + Broadcast + Reshape for the shared heads, ScaledDotProductAttention, Assign) and
SDPAToPagedAttention, which openvino_genai runs by default. tests/unit/export/openvino sees them fire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op.util import Variable, VariableInfo

from edgeport.export.families.decoder import DecoderSpec, LayerShape
from edgeport.export.formats.rope import inverse_frequencies

Node = Any

_MASKED = -65504.0  # float16's lowest: minus infinity makes NaN of a row that is padding alone


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
    cosine: Node  # [batch, 1, seq, head_dim]
    sine: Node
    mask: Node  # [batch, 1, seq, past + seq] float32
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
    cosine, sine = _rotations(inputs.position_ids, spec)
    shape = ops.shape_of(inputs.input_ids, output_type="i64")
    batch, length = _element(shape, 0), _element(shape, 1)
    return Shared(batch, cosine, sine, _mask(inputs.attention_mask, length), inputs.beam_idx)


def _rotations(position_ids: Node, spec: DecoderSpec) -> tuple[Node, Node]:
    """Cosine and sine [batch, 1, seq, head_dim], both halves alike. Angles are float32 products, as in transformers."""
    frequencies = inverse_frequencies(spec.rope, spec.head_dim).astype(np.float32)
    constant = ops.constant(frequencies.reshape(1, 1, -1), name="rope_inverse_frequencies")
    positions = ops.convert(ops.unsqueeze(position_ids, _vector(2)), ov.Type.f32)
    angles = ops.multiply(positions, constant)
    doubled = ops.concat([angles, angles], axis=-1)
    return ops.unsqueeze(ops.cos(doubled), _vector(1)), ops.unsqueeze(ops.sin(doubled), _vector(1))


def _mask(attention_mask: Node, length: Node) -> Node:
    """Query i at place past + i sees the keys up to its own place that are not padding."""
    total = _element(ops.shape_of(attention_mask, output_type="i64"), 1)
    keys = ops.range(_scalar(0), ops.squeeze(total, _vector(0)), _scalar(1), output_type="i64")
    past = ops.squeeze(ops.subtract(total, length), _vector(0))
    queries = ops.range(past, ops.squeeze(total, _vector(0)), _scalar(1), output_type="i64")
    # [seq, past + seq]
    causal = ops.less_equal(ops.unsqueeze(keys, _vector(0)), ops.unsqueeze(queries, _vector(1)))
    real = ops.not_equal(ops.unsqueeze(ops.unsqueeze(attention_mask, _vector(1)), _vector(1)), _scalar(0))
    allowed = ops.logical_and(ops.unsqueeze(ops.unsqueeze(causal, _vector(0)), _vector(0)), real)
    return ops.select(allowed, ops.constant(np.float32(0.0)), ops.constant(np.float32(_MASKED)))


class Attention:
    """One layer's attention between the projections; collects the Assign nodes the model needs as sinks."""

    def __init__(self, spec: DecoderSpec, shared: Shared) -> None:
        self._spec = spec
        self._shared = shared
        self.variables: list[Any] = []
        self.sinks: list[Node] = []

    def __call__(self, layer: int, query: Node, key: Node, value: Node) -> Node:
        """Projections [batch, seq, heads * head_dim] -> mixed values [batch, seq, heads * head_dim]."""
        shape = self._spec.layer_shape(layer)
        queries = self._rotate(self._split(query, shape.heads))
        keys = self._rotate(self._split(key, shape.kv_heads))
        cached = (
            self._cached(f"{layer}.key", keys, shape.kv_heads),
            self._cached(f"{layer}.value", self._split(value, shape.kv_heads), shape.kv_heads),
        )
        keys, values = (self._repeat(heads, shape) for heads in cached)
        mixed = ops.scaled_dot_product_attention(queries, keys, values, self._shared.mask, causal=False)
        merged = ops.constant([0, 0, shape.heads * self._spec.head_dim], dtype=ov.Type.i64)
        return ops.reshape(ops.transpose(mixed, _order()), merged, special_zero=True)

    def _split(self, projected: Node, heads: int) -> Node:
        """[batch, seq, heads * head_dim] -> [batch, heads, seq, head_dim]."""
        shape = ops.constant([0, 0, heads, self._spec.head_dim], dtype=ov.Type.i64)
        return ops.transpose(ops.reshape(projected, shape, special_zero=True), _order())

    def _rotate(self, heads: Node) -> Node:
        half = self._spec.head_dim // 2
        first = ops.slice(heads, _vector(0), _vector(half), _vector(1), _vector(3))
        second = ops.slice(heads, _vector(half), _vector(2**63 - 1), _vector(1), _vector(3))
        negative = ops.multiply(second, ops.constant(np.full((1, 1, 1, 1), -1, np.float32)))
        turned = ops.concat([negative, first], axis=-1)
        return ops.add(ops.multiply(heads, self._shared.cosine), ops.multiply(turned, self._shared.sine))

    def _cached(self, name: str, new: Node, kv_heads: int) -> Node:
        """Past and new along the sequence axis; the variable starts empty and is named as optimum-intel names it."""
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, kv_heads, -1, self._spec.head_dim])
        info.data_type = ov.Type.f32
        info.variable_id = f"past_key_values.{name}present.{name}"
        variable = Variable(info)
        sizes = [self._shared.batch, _vector(kv_heads), _vector(0), _vector(self._spec.head_dim)]
        empty = ops.broadcast(ops.constant(np.float32(0.0)), ops.concat(sizes, axis=0))
        past = ops.gather(ops.read_value(empty, variable), self._shared.beam_idx, _scalar(0))
        present = ops.concat([past, new], axis=2)
        self.variables.append(variable)
        self.sinks.append(ops.assign(present, variable))
        return present

    def _repeat(self, heads: Node, shape: LayerShape) -> Node:
        """Each key or value head once per query head of its group: [batch, kv_heads, all, d] -> [batch, heads, all, d]."""
        if shape.kv_heads == shape.heads:
            return heads
        group = shape.heads // shape.kv_heads
        widened = ops.broadcast(
            ops.unsqueeze(heads, _vector(2)),
            ops.constant([1, 1, group, 1, 1], dtype=ov.Type.i64),
            broadcast_spec="BIDIRECTIONAL",
        )
        whole = ops.constant([0, shape.heads, -1, self._spec.head_dim], dtype=ov.Type.i64)
        return ops.reshape(widened, whole, special_zero=True)


def _order() -> Node:
    return ops.constant([0, 2, 1, 3], dtype=ov.Type.i64)


def _element(shape: Node, index: int) -> Node:
    """One element of a shape as a vector of one."""
    return ops.gather(shape, _vector(index), _scalar(0))


def _vector(value: int) -> Node:
    return ops.constant([value], dtype=ov.Type.i64)


def _scalar(value: int) -> Node:
    return ops.constant(value, dtype=ov.Type.i64)
