"""The ONNX graph of a decoder, in the operators onnxruntime runs fused and in onnxruntime-genai's naming.

    input_ids [batch, sequence], attention_mask [batch, total], past_key_values.N.{key,value} [batch, kv_heads, past, head_dim]
    -> logits [batch, sequence, vocab_size], present.N.{key,value} [batch, kv_heads, total, head_dim]

Operators of com.microsoft (onnxruntime contrib operators): MatMulNBits, GatherBlockQuantized, GroupQueryAttention with rotary
embedding inside, SkipSimplifiedLayerNormalization. Everything is float32 at the interface: that is what the CPU kernels take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeport.export.checkpoint import Checkpoint, PackedTensor
from edgeport.export.families.decoder import EMBEDDING, FINAL_NORM, HEAD
from edgeport.export.formats.onnx_weights import ExternalData
from edgeport.export.formats.rope import inverse_frequencies

_CONTRIB = "com.microsoft"
_OPSET, _CONTRIB_OPSET, _IR_VERSION = 21, 1, 10
# Int8 activations: the fast kernels on every CPU, and the only 8-bit kernel on x86.
_ACCURACY_LEVEL = 4


class DecoderGraph:
    """Builds nodes while streaming each tensor to the external data file; one instance makes one model."""

    def __init__(self, checkpoint: Checkpoint, data: ExternalData) -> None:
        self._checkpoint = checkpoint
        self._spec = checkpoint.spec
        self._data = data
        self._nodes: list[onnx.NodeProto] = []

    def build(self, name: str) -> onnx.ModelProto:
        """Emit the whole graph; each tensor of the checkpoint is read once and released."""
        self._attention_lengths()
        self._rotary_tables()
        hidden = self._embedding()
        skip = ""
        for layer in range(self._spec.layers):
            hidden, skip = self._layer(layer, hidden, skip)
        normed, _ = self._norm("final_norm", FINAL_NORM, hidden, skip)
        self._head(normed)
        graph = helper.make_graph(self._nodes, name, self._inputs(), self._outputs(), self._data.initializers)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, _CONTRIB_OPSET)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="edgeport"
        )

    def _layer(self, layer: int, hidden: str, skip: str) -> tuple[str, str]:
        """(branch output, residual stream) after one layer; the next norm adds the two."""
        prefix = f"model.layers.{layer}."
        normed, residual = self._norm(
            f"layers.{layer}.input_norm", prefix + "input_layernorm.weight", hidden, skip
        )
        attended = self._attention(layer, normed)
        normed, residual = self._norm(
            f"layers.{layer}.post_norm", prefix + "post_attention_layernorm.weight", attended, residual
        )
        gate = self._linear([prefix + "mlp.gate_proj"], normed)
        up = self._linear([prefix + "mlp.up_proj"], normed)
        self._node("Sigmoid", [gate], [f"{gate}.sigmoid"])
        self._node("Mul", [gate, f"{gate}.sigmoid"], [f"{gate}.silu"])
        self._node("Mul", [f"{gate}.silu", up], [f"{prefix}mlp.product"])
        return self._linear([prefix + "mlp.down_proj"], f"{prefix}mlp.product"), residual

    def _attention(self, layer: int, normed: str) -> str:
        prefix = f"model.layers.{layer}.self_attn."
        parts = [prefix + "q_proj", prefix + "k_proj", prefix + "v_proj"]
        if len({self._checkpoint.record(f"{part}.weight").scheme for part in parts}) == 1:
            # One matrix of all rows: one kernel call, and the operator splits query, key and value itself.
            query_key_value = [self._linear(parts, normed), "", ""]
        else:
            query_key_value = [self._linear([part], normed) for part in parts]
        past = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
        present = [f"present.{layer}.key", f"present.{layer}.value"]
        self._node(
            "GroupQueryAttention",
            [*query_key_value, *past, "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache"],
            [f"{prefix}output", *present],
            domain=_CONTRIB,
            num_heads=self._spec.layer_shape(layer).heads,
            kv_num_heads=self._spec.layer_shape(layer).kv_heads,
            scale=float(self._spec.head_dim**-0.5),
            do_rotary=1,
            rotary_interleaved=0,
        )
        return self._linear([prefix + "o_proj"], f"{prefix}output")

    def _norm(self, name: str, weight: str, hidden: str, skip: str) -> tuple[str, str]:
        """(normalized, residual sum). The first norm has nothing to add and keeps its input as the residual."""
        tensor = self._checkpoint.tensor(weight)
        scale = self._data.add(weight, [tensor.dequantize()], tensor.shape)
        if not skip:
            self._node(
                "SimplifiedLayerNormalization",
                [hidden, scale],
                [name],
                axis=-1,
                epsilon=self._spec.rms_norm_eps,
                stash_type=1,
            )
            return name, hidden
        outputs = [name, "", "", f"{name}.residual"]
        self._node(
            "SkipSimplifiedLayerNormalization",
            [hidden, skip, scale],
            outputs,
            domain=_CONTRIB,
            epsilon=self._spec.rms_norm_eps,
        )
        return name, f"{name}.residual"

    def _linear(self, modules: Sequence[str], hidden: str) -> str:
        """`hidden` times the rows of all `modules` (same scheme), plus their biases."""
        tensors = [self._checkpoint.tensor(f"{module}.weight") for module in modules]
        name = modules[0] if len(modules) == 1 else modules[0].replace("q_proj", "qkv_proj")
        bias = self._bias(modules, name)
        output = self._matmul(name, tensors, hidden, bias, output=f"{name}.output")
        for module in modules:
            self._checkpoint.release(f"{module}.weight")
        return output

    def _bias(self, modules: Sequence[str], name: str) -> str:
        names = [f"{module}.bias" for module in modules]
        if names[0] not in self._checkpoint:
            return ""
        values = [self._checkpoint.tensor(item).dequantize() for item in names]
        return self._data.add(f"{name}.bias", values, [sum(value.size for value in values)])

    def _matmul(
        self, name: str, tensors: Sequence[PackedTensor], hidden: str, bias: str, *, output: str
    ) -> str:
        rows, columns = sum(tensor.shape[0] for tensor in tensors), tensors[0].shape[1]
        scheme = tensors[0].scheme
        payload = [tensor.payload for tensor in tensors]
        if not scheme.is_quantized:
            weight = self._float_weight(f"{name}.weight", payload, (rows, columns))
            return self._float_matmul(hidden, weight, bias, output)
        blocks = columns // scheme.block
        codes = self._data.add(
            f"{name}.weight_codes", payload, [rows, blocks, scheme.block * scheme.bits // 8]
        )
        scales = [tensor.scales for tensor in tensors if tensor.scales is not None]
        self._data.add(f"{name}.weight_scales", scales, [rows, blocks])
        return self._quantized_matmul(
            name, hidden, (codes, self._to_float(f"{name}.weight_scales"), bias), tensors[0], rows, output
        )

    def _quantized_matmul(
        self,
        name: str,
        hidden: str,
        weights: tuple[str, str, str],
        like: PackedTensor,
        rows: int,
        output: str,
    ) -> str:
        codes, scales, bias = weights
        inputs = [hidden, codes, scales, "", "", bias] if bias else [hidden, codes, scales]
        scheme = like.scheme
        self._node(
            "MatMulNBits",
            inputs,
            [output],
            name=name,
            domain=_CONTRIB,
            K=like.shape[1],
            N=rows,
            bits=scheme.bits,
            block_size=scheme.block,
            accuracy_level=_ACCURACY_LEVEL,
        )
        return output

    def _float_matmul(self, hidden: str, weight: str, bias: str, output: str) -> str:
        """The weight stays [out_features, in_features]: no second copy in another order, and a tied head can share it."""
        product = f"{output}.product" if bias else output
        self._node("FusedMatMul", [hidden, weight], [product], domain=_CONTRIB, transB=1)
        if bias:
            self._node("Add", [product, bias], [output])
        return output

    def _float_weight(self, name: str, payload: Sequence[Any], shape: tuple[int, int]) -> str:
        self._data.add(name, payload, shape)
        return name if payload[0].dtype == np.float32 else self._to_float(name)

    def _to_float(self, name: str) -> str:
        """A cast that onnxruntime folds once when it loads: the file keeps 16 bits, the kernel gets 32."""
        self._node("Cast", [name], [f"{name}.float"], to=TensorProto.FLOAT)
        return f"{name}.float"

    def _embedding(self) -> str:
        tensor = self._checkpoint.tensor(EMBEDDING)
        rows, columns = tensor.shape
        if tensor.scales is None:
            weight = self._float_weight(EMBEDDING, [tensor.payload], (rows, columns))
            self._node("Gather", [weight, "input_ids"], ["embedding"], axis=0)
            return "embedding"
        codes = self._data.add(f"{EMBEDDING}_codes", [tensor.payload], tensor.payload.shape)
        self._data.add(f"{EMBEDDING}_scales", [tensor.scales], tensor.scales.shape)
        self._node(
            "GatherBlockQuantized",
            [codes, "input_ids", self._to_float(f"{EMBEDDING}_scales")],
            ["embedding"],
            domain=_CONTRIB,
            bits=tensor.scheme.bits,
            block_size=tensor.scheme.block,
            gather_axis=0,
            quantize_axis=1,
        )
        return "embedding"

    def _head(self, hidden: str) -> None:
        if not self._spec.tied_embeddings:
            self._matmul("lm_head", [self._checkpoint.tensor(HEAD)], hidden, "", output="logits")
            self._checkpoint.release(HEAD)
            return
        tensor = self._checkpoint.tensor(EMBEDDING)
        if tensor.scales is None:
            weight = EMBEDDING if tensor.payload.dtype == np.float32 else f"{EMBEDDING}.float"
            self._float_matmul(hidden, weight, "", "logits")
            return
        rows, columns = tensor.shape
        block = tensor.scheme.block
        shape = [rows, columns // block, block * tensor.scheme.bits // 8]
        codes = self._data.alias("lm_head.weight_codes", f"{EMBEDDING}_codes", shape)
        scales = f"{EMBEDDING}_scales.float"
        self._quantized_matmul("lm_head", hidden, (codes, scales, ""), tensor, rows, "logits")
        self._checkpoint.release(EMBEDDING)

    def _attention_lengths(self) -> None:
        """GroupQueryAttention wants the last valid index of each sequence and the padded total length, as int32."""
        one = self._data.add("one", [np.array([1], dtype=np.int64)], [1])
        self._node("ReduceSum", ["attention_mask", one], ["lengths"], keepdims=0)
        self._node("Sub", ["lengths", one], ["last_index"])
        self._node("Cast", ["last_index"], ["seqlens_k"], to=TensorProto.INT32)
        self._node("Shape", ["attention_mask"], ["total_length"], start=1, end=2)
        scalar = self._data.add("scalar_shape", [np.empty(0, dtype=np.int64)], [0])
        self._node("Reshape", ["total_length", scalar], ["total_length_scalar"])
        self._node("Cast", ["total_length_scalar"], ["total_sequence_length"], to=TensorProto.INT32)

    def _rotary_tables(self) -> None:
        """Positions times frequencies, all constant: onnxruntime folds the tables when it loads, the file stays small."""
        frequencies = inverse_frequencies(self._spec.rope, self._spec.head_dim).astype(np.float32)
        bounds = np.array([0, self._spec.context_length, 1], dtype=np.float32)
        names = [
            self._data.add(f"rope.{name}", [bounds[at]], [])
            for at, name in enumerate(("start", "limit", "step"))
        ]
        self._data.add("rope.frequencies", [frequencies], [1, frequencies.size])
        self._data.add("rope.column", [np.array([1], dtype=np.int64)], [1])
        self._node("Range", names, ["rope.positions"])
        self._node("Unsqueeze", ["rope.positions", "rope.column"], ["rope.position_column"])
        self._node("Mul", ["rope.position_column", "rope.frequencies"], ["rope.angles"])
        self._node("Cos", ["rope.angles"], ["cos_cache"])
        self._node("Sin", ["rope.angles"], ["sin_cache"])

    def _cache_shapes(self, layer: int, length: str) -> list[str | int]:
        return ["batch_size", self._spec.layer_shape(layer).kv_heads, length, self._spec.head_dim]

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
        return [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)] + self._cache(
            "present", "total_sequence_length"
        )

    def _cache(self, prefix: str, length: str) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(
                f"{prefix}.{layer}.{part}", TensorProto.FLOAT, self._cache_shapes(layer, length)
            )
            for layer in range(self._spec.layers)
            for part in ("key", "value")
        ]

    def _node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        name: str = "",
        domain: str = "",
        **attributes: Any,
    ) -> None:
        self._nodes.append(
            helper.make_node(operator, inputs, outputs, name=name or outputs[0], domain=domain, **attributes)
        )
