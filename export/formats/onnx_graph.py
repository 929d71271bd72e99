"""The ONNX graph of a decoder, in the operators onnxruntime runs fused and in onnxruntime-genai's naming.

    input_ids [batch, sequence], attention_mask [batch, total], past_key_values.N.{key,value} [batch, kv_heads, past, head_dim]
    -> logits [batch, sequence, vocab_size], present.N.{key,value} [batch, kv_heads, total, head_dim]

Operators of com.microsoft (onnxruntime contrib operators): MatMulNBits, GatherBlockQuantized, GroupQueryAttention with rotary
embedding inside, SkipSimplifiedLayerNormalization. Everything is float32 at the interface: that is what the CPU kernels take.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from edgeport.export.checkpoint import Checkpoint
from edgeport.export.families.decoder import FINAL_NORM
from edgeport.export.formats.onnx_attention import Attention, add_lengths
from edgeport.export.formats.onnx_feed_forward import add_feed_forward
from edgeport.export.formats.onnx_linears import Linears
from edgeport.export.formats.onnx_nodes import CONTRIB, GraphNodes
from edgeport.export.formats.onnx_norms import Norms
from edgeport.export.formats.onnx_weights import ExternalData

_OPSET, _CONTRIB_OPSET, _IR_VERSION = 21, 1, 10
_LOGITS = "logits"


class DecoderGraph:
    """Builds nodes while streaming each tensor to the external data file; one instance makes one model.

    Between the parts of a layer go two tensors: what the last part gave (`branch`) and the sum of all before (`residual`, "" at
    the beginning). Whatever comes next adds them, a norm in the same kernel.
    """

    def __init__(self, checkpoint: Checkpoint, data: ExternalData) -> None:
        self._spec = checkpoint.spec
        self._nodes = GraphNodes(data)
        self._linears = Linears(checkpoint, self._nodes)
        self._norms = Norms(checkpoint, self._nodes)
        self._attention = Attention(self._spec, self._nodes, self._linears, self._norms)

    def build(self, name: str) -> onnx.ModelProto:
        """Emit the whole graph; each tensor of the checkpoint is read once and released."""
        add_lengths(self._nodes)
        embedding = self._linears.embedding()
        branch = self._nodes.scaled(embedding, self._spec.embedding_scale, "embedding.scaled")
        residual = ""
        for layer in range(self._spec.layers):
            branch, residual = self._layer(layer, branch, residual)
        normed, _ = self._norms.of_sum("final_norm", FINAL_NORM.removesuffix(".weight"), branch, residual)
        self._logits(normed)
        initializers = self._nodes.data.initializers
        graph = helper.make_graph(self._nodes.proto, name, self._inputs(), self._outputs(), initializers)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(CONTRIB, _CONTRIB_OPSET)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="edgeport"
        )

    def _layer(self, layer: int, branch: str, residual: str) -> tuple[str, str]:
        norms, prefix = self._spec.norms, f"model.layers.{layer}."
        entered, residual = self._enter(prefix, norms.before_attention, "attention", (branch, residual))
        attended = self._attention(layer, entered)
        branch = self._leave(prefix, norms.after_attention, "attention", attended)
        entered, residual = self._enter(prefix, norms.before_feed_forward, "mlp", (branch, residual))
        given = add_feed_forward(self._nodes, self._linears, self._spec.block, prefix, entered)
        return self._leave(prefix, norms.after_feed_forward, "mlp", given), residual

    def _enter(self, prefix: str, norm: str | None, part: str, state: tuple[str, str]) -> tuple[str, str]:
        """(what a part of a layer takes, the residual after the sum)."""
        branch, residual = state
        if norm:
            return self._norms.of_sum(f"{prefix}{norm}", f"{prefix}{norm}", branch, residual)
        total = self._nodes.add("Add", [branch, residual], f"{prefix}{part}.input") if residual else branch
        return total, total

    def _leave(self, prefix: str, norm: str | None, part: str, given: str) -> str:
        """What a part of a layer adds to the residual."""
        if norm:
            given = self._norms.plain(f"{prefix}{norm}", f"{prefix}{norm}", given)
        return self._nodes.scaled(given, self._spec.block.residual_scale, f"{prefix}{part}.scaled")

    def _logits(self, hidden: str) -> None:
        """Head, scale, soft cap; the last node of them is called logits."""
        scale, cap = self._spec.logit_scale, self._spec.logit_softcap
        steps = ["product", *(["scaled"] if scale != 1.0 else []), *(["capped"] if cap is not None else [])]
        names = {step: f"lm_head.{step}" for step in steps} | {steps[-1]: _LOGITS}
        values = self._linears.head(hidden, names["product"])
        values = self._nodes.scaled(values, scale, names.get("scaled", ""))
        if cap is not None:
            bound = self._nodes.scalar("lm_head.cap", cap)
            share = self._nodes.add("Div", [values, bound], "lm_head.share")
            self._nodes.add("Mul", [self._nodes.add("Tanh", [share], "lm_head.bent"), bound], names["capped"])

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        values = [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
            helper.make_tensor_value_info(
                "attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]
            ),
        ]
        return values + self._cache("past_key_values", "past_sequence_length")

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        shape = ["batch_size", "sequence_length", self._spec.vocab_size]
        return [helper.make_tensor_value_info(_LOGITS, TensorProto.FLOAT, shape)] + self._cache(
            "present", "total_sequence_length"
        )

    def _cache(self, prefix: str, length: str) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(
                f"{prefix}.{layer}.{part}", TensorProto.FLOAT, self._cache_shape(layer, length)
            )
            for layer in range(self._spec.layers)
            for part in ("key", "value")
        ]

    def _cache_shape(self, layer: int, length: str) -> list[str | int]:
        return ["batch_size", self._spec.layer_shape(layer).kv_heads, length, self._spec.head_dim]
