"""The decoder as an OpenVINO model, built node by node from a DecoderSpec: no tracing, no torch, no float copy of a weight.

Inputs, output and variables are those of a stateful model from optimum-intel, so that its consumers open this one:
input_ids, attention_mask, position_ids, beam_idx -> logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import openvino as ov
from openvino import opset13 as ops

from edgeport.export.checkpoint import Checkpoint
from edgeport.export.families.decoder import EMBEDDING, FINAL_NORM, HEAD, Activation
from edgeport.export.formats.openvino_attention import Attention, Inputs, make_inputs, make_shared
from edgeport.export.formats.openvino_constants import factor, scaled
from edgeport.export.formats.openvino_norms import Norms
from edgeport.export.formats.openvino_weights import WeightNodes

Node = Any

_ACTIVATIONS: Mapping[Activation, Callable[[Node], Node]] = {
    "silu": ops.swish,
    "gelu_tanh": lambda hidden: ops.gelu(hidden, "tanh"),
    "gelu": lambda hidden: ops.gelu(hidden, "erf"),
    "relu": ops.relu,
}


class DecoderModel:
    """Builds the model. Its constants lie in the checkpoint's memory: keep this object until the model is saved."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._spec = checkpoint.spec
        self._weights = WeightNodes(checkpoint)
        self._norms = Norms(self._weights, self._spec.rms_norm_eps)

    def build(self, name: str) -> Any:
        inputs = make_inputs()
        attention = Attention(self._spec, make_shared(inputs, self._spec), self._norms)
        hidden = self._embed(inputs)
        for layer in range(self._spec.layers):
            hidden = self._layer(layer, hidden, attention)
        result = ops.result(self._head(hidden), name="logits")
        result.output(0).get_tensor().set_names({"logits"})
        return ov.Model([result], attention.sinks, inputs.all(), attention.variables, name)

    def _embed(self, inputs: Inputs) -> Node:
        """Token rows [batch, seq, hidden_size]."""
        indices = ops.convert(inputs.input_ids, ov.Type.i32)
        rows = ops.gather(self._weights.weight(EMBEDDING), indices, ops.constant(0, dtype=ov.Type.i32))
        return scaled(rows, self._spec.embedding_scale)

    def _layer(self, layer: int, hidden: Node, attention: Attention) -> Node:
        prefix = f"model.layers.{layer}."
        places = self._spec.norms
        normal = self._normalize(hidden, prefix, places.before_attention)
        query, key, value = (self._project(normal, f"{prefix}self_attn.{part}_proj.weight") for part in "qkv")
        mixed = self._project(attention(layer, query, key, value), prefix + "self_attn.o_proj.weight")
        hidden = self._join(hidden, self._normalize(mixed, prefix, places.after_attention))
        normal = self._normalize(hidden, prefix, places.before_feed_forward)
        activation = _ACTIVATIONS[self._spec.block.activation]
        gate = activation(self._project(normal, prefix + "mlp.gate_proj.weight"))
        up = self._project(normal, prefix + "mlp.up_proj.weight")
        down = self._project(ops.multiply(gate, up), prefix + "mlp.down_proj.weight")
        return self._join(hidden, self._normalize(down, prefix, places.after_feed_forward))

    def _join(self, hidden: Node, branch: Node) -> Node:
        return ops.add(hidden, scaled(branch, self._spec.block.residual_scale))

    def _normalize(self, hidden: Node, prefix: str, place: str | None) -> Node:
        if place is None:
            return hidden
        return self._norms(hidden, f"{prefix}{place}.weight", self._spec.hidden_size)

    def _head(self, hidden: Node) -> Node:
        """Logits [batch, seq, vocab_size]. The cap is spelt as openvino_genai looks for it behind the product."""
        normal = self._norms(hidden, FINAL_NORM, self._spec.hidden_size)
        head = EMBEDDING if self._spec.tied_embeddings else HEAD
        logits = scaled(self._project(normal, head), self._spec.logit_scale)
        cap = self._spec.logit_softcap
        if cap is None:
            return logits
        return ops.multiply(ops.tanh(ops.divide(logits, factor(cap, 3))), factor(cap, 3))

    def _project(self, hidden: Node, name: str) -> Node:
        """hidden [batch, seq, in] x weight [out, in] -> [batch, seq, out], plus the bias where the checkpoint has one."""
        product = ops.matmul(hidden, self._weights.weight(name), transpose_a=False, transpose_b=True)
        product.set_friendly_name(name.removesuffix(".weight"))
        bias = name.removesuffix(".weight") + ".bias"
        if bias not in self._checkpoint:
            return product
        return ops.add(product, self._weights.vector(bias, (1, 1, self._checkpoint.record(bias).shape[0])))
