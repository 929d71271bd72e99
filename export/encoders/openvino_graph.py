"""An encoder as an OpenVINO model, built node by node: no tracing, no torch, no float copy of a weight.

Inputs and outputs are named as optimum-intel names them: input_ids, attention_mask, token_type_ids (where the family has more
than one type) -> last_hidden_state, and logits for classifiers. LayerNorm is MVN with a scale and a shift, attention is
ScaledDotProductAttention; tests/encoders sees what the CPU plug-in makes of them: one kernel for each MVN and each attention,
GELU and biases inside the products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from edgeport.export.checkpoint import StoredTensors
from edgeport.export.encoders.spec import (
    CLASSIFIER,
    EMBEDDING_NORM,
    POOLER,
    POSITIONS,
    TOKEN_TYPES,
    WORDS,
    EncoderSpec,
    layer_prefix,
)
from edgeport.export.formats.openvino_weights import WeightNodes

Node = Any

_MASKED = -65504.0  # float16's lowest: minus infinity makes NaN of a row that is padding alone


class EncoderModelBuilder:
    """Builds the model. Its constants lie in the checkpoint's memory: keep this object until the model is saved."""

    def __init__(self, spec: EncoderSpec, checkpoint: StoredTensors) -> None:
        self._spec = spec
        self._checkpoint = checkpoint
        self._weights = WeightNodes(checkpoint)

    def build(self, name: str) -> Any:
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self._spec.token_types > 1 else [])]
        inputs = {name: _parameter(name) for name in names}
        mask = _mask(inputs["attention_mask"])
        hidden = self._embed(inputs)
        for layer in range(self._spec.layers):
            hidden = self._layer(layer_prefix(layer), hidden, mask)
        results = [_result(hidden, "last_hidden_state")]
        if self._spec.labels:
            results.append(_result(self._classify(hidden), "logits"))
        return ov.Model(results, list(inputs.values()), name)

    def _embed(self, inputs: dict[str, Node]) -> Node:
        """Token rows [batch, seq, hidden_size], normalized."""
        rows = ops.add(self._rows(WORDS, inputs["input_ids"]), self._positions(inputs["input_ids"]))
        if self._spec.token_types > 1:
            rows = ops.add(rows, self._rows(TOKEN_TYPES, inputs["token_type_ids"]))
        elif self._spec.token_types == 1:
            rows = ops.add(rows, self._weights.vector(TOKEN_TYPES, (1, 1, self._spec.hidden_size)))
        return self._normalize(rows, EMBEDDING_NORM)

    def _rows(self, table: str, indices: Node) -> Node:
        return ops.gather(self._weights.weight(table), ops.convert(indices, ov.Type.i32), _i32(0))

    def _positions(self, input_ids: Node) -> Node:
        """The first rows of the table, as many as there are tokens: [1, seq, hidden_size]."""
        length = ops.gather(ops.shape_of(input_ids, output_type="i64"), _vector(1), _i32(0))
        rows = ops.slice(self._weights.weight(POSITIONS), _vector(0), length, _vector(1), _vector(0))
        return ops.unsqueeze(rows, _vector(0))

    def _layer(self, prefix: str, hidden: Node, mask: Node) -> Node:
        query, key, value = (
            self._split(self._project(hidden, f"{prefix}attention.self.{part}"))
            for part in ("query", "key", "value")
        )
        mixed = ops.scaled_dot_product_attention(query, key, value, mask, causal=False)
        merged = ops.constant([0, 0, self._spec.hidden_size], dtype=ov.Type.i64)
        joined = ops.reshape(ops.transpose(mixed, _order()), merged, special_zero=True)
        projected = self._project(joined, f"{prefix}attention.output.dense")
        hidden = self._normalize(ops.add(projected, hidden), f"{prefix}attention.output.LayerNorm")
        activated = self._activate(self._project(hidden, f"{prefix}intermediate.dense"))
        down = self._project(activated, f"{prefix}output.dense")
        return self._normalize(ops.add(down, hidden), f"{prefix}output.LayerNorm")

    def _split(self, projected: Node) -> Node:
        """[batch, seq, heads * head_dim] -> [batch, heads, seq, head_dim]."""
        shape = ops.constant([0, 0, self._spec.heads, self._spec.head_dim], dtype=ov.Type.i64)
        return ops.transpose(ops.reshape(projected, shape, special_zero=True), _order())

    def _activate(self, values: Node) -> Node:
        if self._spec.activation == "relu":
            return ops.relu(values)
        return ops.gelu(values, "tanh" if self._spec.activation == "gelu_tanh" else "erf")

    def _normalize(self, hidden: Node, module: str) -> Node:
        shape = (1, 1, self._spec.hidden_size)
        axes = ops.constant([-1], dtype=ov.Type.i64)
        normal = ops.mvn(hidden, axes, True, self._spec.layer_norm_eps, "inside_sqrt")
        scaled = ops.multiply(normal, self._weights.vector(f"{module}.weight", shape))
        return ops.add(scaled, self._weights.vector(f"{module}.bias", shape))

    def _project(self, hidden: Node, module: str) -> Node:
        """hidden [..., in] x weight [out, in] + bias -> [..., out]."""
        weight = self._weights.weight(f"{module}.weight")
        product = ops.matmul(hidden, weight, transpose_a=False, transpose_b=True)
        product.set_friendly_name(module)
        bias = f"{module}.bias"
        return ops.add(product, self._weights.vector(bias, (1, self._checkpoint.record(bias).shape[0])))

    def _classify(self, hidden: Node) -> Node:
        if self._spec.task == "sequence-classification":
            hidden = ops.gather(hidden, _i32(0), _i32(1))  # [batch, hidden_size]
        if self._spec.pooler is not None:
            pooled = self._project(hidden, POOLER)
            hidden = ops.tanh(pooled) if self._spec.pooler == "tanh" else ops.relu(pooled)
        return self._project(hidden, CLASSIFIER)


def _parameter(name: str) -> Node:
    node = ops.parameter([-1, -1], ov.Type.i64, name=name)
    node.output(0).get_tensor().set_names({name})
    return node


def _result(node: Node, name: str) -> Node:
    result = ops.result(node, name=name)
    result.output(0).get_tensor().set_names({name})
    return result


def _mask(attention_mask: Node) -> Node:
    """[batch, seq] of ones and zeros -> [batch, 1, 1, seq], 0 for a token and a large negative number for padding."""
    real = ops.not_equal(ops.unsqueeze(attention_mask, ops.constant([1, 2], dtype=ov.Type.i64)), _vector(0))
    return ops.select(real, ops.constant(np.float32(0.0)), ops.constant(np.float32(_MASKED)))


def _order() -> Node:
    return ops.constant([0, 2, 1, 3], dtype=ov.Type.i64)


def _vector(value: int) -> Node:
    return ops.constant([value], dtype=ov.Type.i64)


def _i32(value: int) -> Node:
    return ops.constant(value, dtype=ov.Type.i32)
