"""Attention of an ONNX decoder: GroupQueryAttention with its cache, window and soft cap, and the projections around it.

Its CPU kernel knows no norms over query and key heads (those of its CUDA kernel it refuses): they stand before it as nodes.
Spec: onnxruntime ContribOperators.md. `local_window_size` counts the token itself, as transformers does, since onnxruntime's pull
request 25927 (September 2025); before, it was one more.
"""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.formats.onnx_linears import Linears
from edgeport.export.formats.onnx_nodes import CONTRIB, GraphNodes
from edgeport.export.formats.onnx_norms import Norms
from edgeport.export.formats.onnx_rotary import Rotary


def add_lengths(nodes: GraphNodes) -> None:
    """GroupQueryAttention wants the last valid index of each sequence and the padded total length, as int32."""
    one = nodes.integers("one", 1)
    lengths = nodes.add("ReduceSum", ["attention_mask", one], "lengths", keepdims=0)
    last = nodes.add("Sub", [lengths, one], "last_index")
    nodes.add("Cast", [last], "seqlens_k", to=TensorProto.INT32)
    total = nodes.add("Shape", ["attention_mask"], "total_length", start=1, end=2)
    scalar = nodes.add("Reshape", [total, nodes.integers("scalar_shape")], "total_length_scalar")
    nodes.add("Cast", [scalar], "total_sequence_length", to=TensorProto.INT32)


class Attention:
    """`add_lengths` has to come before the first call."""

    def __init__(self, spec: DecoderSpec, nodes: GraphNodes, linears: Linears, norms: Norms) -> None:
        self._spec = spec
        self._nodes = nodes
        self._linears = linears
        self._norms = norms
        self._rotary = Rotary(spec, nodes)

    def __call__(self, layer: int, hidden: str) -> str:
        """[batch, sequence, hidden_size] -> the same, out of the output projection."""
        rope = self._spec.layer_rope(layer)
        turns_inside = self._rotary.turns_inside_attention(rope)
        inputs = self._inputs(layer, hidden, turns_inside=turns_inside)
        inputs += [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
        inputs += ["seqlens_k", "total_sequence_length"]
        if turns_inside:
            inputs += self._rotary.tables(rope)
        output = f"{_prefix(layer)}output"
        self._nodes.add_wide(
            "GroupQueryAttention",
            inputs,
            [output, f"present.{layer}.key", f"present.{layer}.value"],
            domain=CONTRIB,
            do_rotary=int(turns_inside),
            rotary_interleaved=0,
            **self._attributes(layer),
        )
        projection = f"{_prefix(layer)}o_proj"
        return self._linears.product(projection, [projection], output)

    def _attributes(self, layer: int) -> dict[str, Any]:
        shape, window = self._spec.layer_shape(layer), self._spec.window(layer)
        attributes: dict[str, Any] = {
            "num_heads": shape.heads,
            "kv_num_heads": shape.kv_heads,
            "scale": self._spec.attention_scale,
        }
        if window is not None:
            attributes["local_window_size"] = window
        if self._spec.block.attention_softcap is not None:
            attributes["softcap"] = float(self._spec.block.attention_softcap)
        return attributes

    def _inputs(self, layer: int, hidden: str, *, turns_inside: bool) -> list[str]:
        """Query, key and value as the operator takes them: in one tensor, where nothing has to be done to one alone."""
        normalized = bool(self._spec.block.query_key_norm)
        names = self._projections(layer, hidden, apart=normalized or not turns_inside)
        for at, (part, heads) in enumerate(self._query_and_key(layer)):
            if normalized:
                names[at] = self._normalized(layer, part, names[at], heads)
            if not turns_inside:
                rope, output = self._spec.layer_rope(layer), f"{_prefix(layer)}{part}_turned"
                names[at] = self._rotary.turn(names[at], heads, rope, output)
        return names

    def _query_and_key(self, layer: int) -> tuple[tuple[str, int], tuple[str, int]]:
        shape = self._spec.layer_shape(layer)
        return ("q", shape.heads), ("k", shape.kv_heads)

    def _projections(self, layer: int, hidden: str, *, apart: bool) -> list[str]:
        """One matrix of all rows where their schemes agree: one kernel call, and the operator splits the result itself."""
        prefix = _prefix(layer)
        parts = [f"{prefix}{name}" for name in ("q_proj", "k_proj", "v_proj")]
        if not self._linears.same_scheme(parts):
            return [self._linears.product(part, [part], hidden) for part in parts]
        packed = self._linears.product(f"{prefix}qkv_proj", parts, hidden)
        if not apart:
            return [packed, "", ""]
        outputs = [f"{prefix}{name}" for name in ("query", "key", "value")]
        shape, width = self._spec.layer_shape(layer), self._spec.head_dim
        sizes = (shape.heads * width, shape.kv_heads * width, shape.kv_heads * width)
        split = self._nodes.integers(f"{prefix}widths", *sizes)
        self._nodes.add_wide("Split", [packed, split], outputs, axis=-1)
        return outputs

    def _normalized(self, layer: int, part: str, values: str, heads: int) -> str:
        """RMSNorm over each head's features, or over all heads together."""
        name = f"{_prefix(layer)}{part}_norm"
        if self._spec.block.query_key_norm == "all":
            return self._norms.rms(name, name, values)
        width = self._spec.head_dim
        by_head = self._nodes.integers(f"{name}.by_head", 0, -1, width)
        together = self._nodes.integers(f"{name}.together", 0, -1, heads * width)
        # [batch, sequence * heads, head_dim]
        rows = self._nodes.add("Reshape", [values, by_head], f"{name}.heads")
        normed = self._norms.rms(name, name, rows)
        return self._nodes.add("Reshape", [normed, together], f"{name}.output")


def _prefix(layer: int) -> str:
    return f"model.layers.{layer}.self_attn."
