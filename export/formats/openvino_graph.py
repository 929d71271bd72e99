"""The decoder as an OpenVINO model, built node by node from a DecoderSpec: no tracing, no torch, no float copy of a weight.

Inputs, output and variables are those of a stateful model from optimum-intel, so that its consumers open this one:
input_ids, attention_mask, position_ids, beam_idx -> logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from edgeport.export.checkpoint import Checkpoint
from edgeport.export.families.decoder import EMBEDDING, FINAL_NORM, HEAD
from edgeport.export.formats.openvino_attention import Attention, Inputs, make_inputs, make_shared
from edgeport.export.formats.openvino_weights import WeightNodes

Node = Any


class DecoderModel:
    """Builds the model. Its constants lie in the checkpoint's memory: keep this object until the model is saved."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._spec = checkpoint.spec
        self._weights = WeightNodes(checkpoint)

    def build(self, name: str) -> Any:
        inputs = make_inputs()
        attention = Attention(self._spec, make_shared(inputs, self._spec))
        hidden = self._embed(inputs)
        for layer in range(self._spec.layers):
            hidden = self._layer(layer, hidden, attention)
        head = EMBEDDING if self._spec.tied_embeddings else HEAD
        logits = self._project(self._normalize(hidden, FINAL_NORM), head)
        result = ops.result(logits, name="logits")
        result.output(0).get_tensor().set_names({"logits"})
        return ov.Model([result], attention.sinks, inputs.all(), attention.variables, name)

    def _embed(self, inputs: Inputs) -> Node:
        """Token rows [batch, seq, hidden_size]."""
        indices = ops.convert(inputs.input_ids, ov.Type.i32)
        return ops.gather(self._weights.weight(EMBEDDING), indices, ops.constant(0, dtype=ov.Type.i32))

    def _layer(self, layer: int, hidden: Node, attention: Attention) -> Node:
        prefix = f"model.layers.{layer}."
        normal = self._normalize(hidden, prefix + "input_layernorm.weight")
        query, key, value = (self._project(normal, f"{prefix}self_attn.{part}_proj.weight") for part in "qkv")
        mixed = attention(layer, query, key, value)
        hidden = ops.add(hidden, self._project(mixed, prefix + "self_attn.o_proj.weight"))
        normal = self._normalize(hidden, prefix + "post_attention_layernorm.weight")
        gate = ops.swish(self._project(normal, prefix + "mlp.gate_proj.weight"))
        up = self._project(normal, prefix + "mlp.up_proj.weight")
        return ops.add(hidden, self._project(ops.multiply(gate, up), prefix + "mlp.down_proj.weight"))

    def _normalize(self, hidden: Node, name: str) -> Node:
        """RMSNorm, spelt as RMSFusion expects it: x * (1 / sqrt(mean(x ** 2) + eps)) * weight."""
        squares = ops.power(hidden, ops.constant(np.full((1, 1, 1), 2, np.float32)))
        mean = ops.reduce_mean(squares, ops.constant([-1], dtype=ov.Type.i64), keep_dims=True)
        root = ops.sqrt(ops.add(mean, ops.constant(np.full((1, 1, 1), self._spec.rms_norm_eps, np.float32))))
        normal = ops.multiply(hidden, ops.divide(ops.constant(np.full((1, 1, 1), 1, np.float32)), root))
        return ops.multiply(normal, self._weights.vector(name, (1, 1, self._spec.hidden_size)))

    def _project(self, hidden: Node, name: str) -> Node:
        """hidden [batch, seq, in] x weight [out, in] -> [batch, seq, out], plus the bias where the checkpoint has one."""
        product = ops.matmul(hidden, self._weights.weight(name), transpose_a=False, transpose_b=True)
        product.set_friendly_name(name.removesuffix(".weight"))
        bias = name.removesuffix(".weight") + ".bias"
        if bias not in self._checkpoint:
            return product
        return ops.add(product, self._weights.vector(bias, (1, 1, self._checkpoint.record(bias).shape[0])))
