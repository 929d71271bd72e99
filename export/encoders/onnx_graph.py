"""The ONNX graph of an encoder, in the operators onnxruntime runs fused and in the names sentence-transformers, Optimum and
text-embeddings-inference look for.

    input_ids, attention_mask, token_type_ids (where the family has more than one type) [batch, sequence] int64
    -> last_hidden_state [batch, sequence, hidden_size]; classifiers also logits [batch, labels] or [batch, sequence, labels]

Operators of com.microsoft (onnxruntime contrib operators): MultiHeadAttention with biases and padding mask inside,
SkipLayerNormalization with the bias of the layer before it, BiasGelu or FastGelu, MatMulNBits, GatherBlockQuantized.
Nothing is left to be recognised by a graph optimizer: `require_fused` counts the operators of what was built.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeport.errors import ArtifactError
from edgeport.export.checkpoint import StoredTensors
from edgeport.export.encoders.onnx_linears import Linears, float_weight
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
from edgeport.export.formats.onnx_nodes import CONTRIB, GraphNodes
from edgeport.export.formats.onnx_weights import ExternalData

_OPSET, _CONTRIB_OPSET, _IR_VERSION = 21, 1, 10
_STATES, _LOGITS = "last_hidden_state", "logits"
_ACTIVATIONS = {"gelu": "BiasGelu", "gelu_tanh": "FastGelu", "relu": "Relu"}
_UNFUSED = ("Softmax", "Erf", "Tanh", "ReduceMean", "LayerNormalization", "MatMul")
"""What attention, norms and GELU look like where they are not fused."""


class EncoderGraph:
    """Builds nodes while streaming each tensor to the external data file; one instance makes one model."""

    def __init__(
        self, spec: EncoderSpec, checkpoint: StoredTensors, data: ExternalData, linears: Linears
    ) -> None:
        self._spec = spec
        self._checkpoint = checkpoint
        self._nodes = GraphNodes(data)
        self._linears = linears

    def build(self, name: str) -> onnx.ModelProto:
        """Raises ArtifactError when the graph does not have the fused operators it should."""
        nodes = self._nodes
        mask = nodes.add("Cast", ["attention_mask"], "padding_mask", to=TensorProto.INT32)
        hidden = self._embed()
        for layer in range(self._spec.layers):
            hidden = self._layer(layer, hidden, mask)
        if self._spec.labels:
            self._classify(hidden)
        graph = helper.make_graph(nodes.proto, name, self._inputs(), self._outputs(), nodes.data.initializers)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(CONTRIB, _CONTRIB_OPSET)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="edgeport"
        )
        names = [item.name for item in self._spec.tensors() if item.role == "linear"]
        inside = [name for name in names if not name.startswith(f"{POOLER}.")]
        require_fused(model, self._spec, self._linears.operators(inside))
        return model

    def _embed(self) -> str:
        """Words, positions and types, added and normalized in one operator: [batch, sequence, hidden_size]."""
        nodes = self._nodes
        length = nodes.add("Shape", ["input_ids"], "sequence_length", start=1, end=2)
        table = nodes.constant(POSITIONS, self._checkpoint.tensor(POSITIONS).dequantize())
        zero = nodes.integers("zero", 0)
        # [sequence, hidden_size]
        rows = nodes.add("Slice", [table, zero, length, zero], "position_rows")
        if self._spec.token_types:
            types = nodes.constant(TOKEN_TYPES, self._checkpoint.tensor(TOKEN_TYPES).dequantize())
            if self._spec.token_types > 1:
                types = nodes.add("Gather", [types, "token_type_ids"], "token_type_rows", axis=0)
            rows = nodes.add("Add", [types, rows], "position_and_type_rows")
        return self._norm(EMBEDDING_NORM, self._words(), rows, "", f"{EMBEDDING_NORM}.output")

    def _words(self) -> str:
        nodes, tensor = self._nodes, self._checkpoint.tensor(WORDS)
        if tensor.scales is None:
            return nodes.add("Gather", [float_weight(nodes, WORDS, tensor), "input_ids"], "word_rows", axis=0)
        codes = nodes.constant(f"{WORDS}_codes", tensor.payload)
        scales = nodes.to_float(nodes.constant(f"{WORDS}_scales", tensor.scales))
        return nodes.add(
            "GatherBlockQuantized",
            [codes, "input_ids", scales],
            "word_rows",
            domain=CONTRIB,
            bits=tensor.scheme.bits,
            block_size=tensor.scheme.block,
            gather_axis=0,
            quantize_axis=1,
        )

    def _layer(self, layer: int, hidden: str, mask: str) -> str:
        prefix = layer_prefix(layer)
        attended = self._attention(f"{prefix}attention.", hidden, mask)
        dense = f"{prefix}attention.output.dense"
        projected = self._linear(dense, attended)
        norm = f"{prefix}attention.output.LayerNorm"
        hidden = self._norm(norm, projected, hidden, self._vector(f"{dense}.bias"), f"{norm}.output")
        activated = self._activate(f"{prefix}intermediate.dense", hidden)
        dense, norm = f"{prefix}output.dense", f"{prefix}output.LayerNorm"
        down = self._linear(dense, activated)
        output = _STATES if layer == self._spec.layers - 1 else f"{norm}.output"
        return self._norm(norm, down, hidden, self._vector(f"{dense}.bias"), output)

    def _attention(self, prefix: str, hidden: str, mask: str) -> str:
        parts = [f"{prefix}self.{part}" for part in ("query", "key", "value")]
        projected = [self._linear(part, hidden) for part in parts]
        biases = [self._checkpoint.tensor(f"{part}.bias").dequantize() for part in parts]
        bias = self._nodes.data.add(f"{prefix}self.bias", biases, [3 * self._spec.hidden_size])
        return self._nodes.add(
            "MultiHeadAttention",
            [*projected, bias, mask],
            f"{prefix}self.output",
            domain=CONTRIB,
            num_heads=self._spec.heads,
        )

    def _activate(self, module: str, hidden: str) -> str:
        product, bias = self._linear(module, hidden), self._vector(f"{module}.bias")
        operator, output = _ACTIVATIONS[self._spec.activation], f"{module}.activated"
        if operator == "Relu":
            return self._nodes.add(
                operator, [self._nodes.add("Add", [product, bias], f"{module}.sum")], output
            )
        return self._nodes.add(operator, [product, bias], output, domain=CONTRIB)

    def _norm(self, module: str, hidden: str, skip: str, bias: str, output: str) -> str:
        """LayerNorm of hidden + skip + bias."""
        weights = [self._vector(f"{module}.weight"), self._vector(f"{module}.bias")]
        inputs = [hidden, skip, *weights, *([bias] if bias else [])]
        epsilon = self._spec.layer_norm_eps
        return self._nodes.add("SkipLayerNormalization", inputs, output, domain=CONTRIB, epsilon=epsilon)

    def _linear(self, module: str, hidden: str) -> str:
        return self._linears(self._nodes, f"{module}.weight", hidden)

    def _vector(self, name: str) -> str:
        return self._nodes.constant(name, self._checkpoint.tensor(name).dequantize())

    def _classify(self, hidden: str) -> None:
        """Of the first token for sequences, of every token for tokens. The head multiplies in float32, it is small."""
        nodes = self._nodes
        if self._spec.task == "sequence-classification":
            first = nodes.constant("first_token", np.array(0, np.int64))
            hidden = nodes.add("Gather", [hidden, first], "first_state", axis=1)
        if self._spec.pooler is not None:
            pooled = self._float_linear(POOLER, hidden, f"{POOLER}.sum")
            hidden = nodes.add(
                "Tanh" if self._spec.pooler == "tanh" else "Relu", [pooled], f"{POOLER}.output"
            )
        self._float_linear(CLASSIFIER, hidden, _LOGITS)

    def _float_linear(self, module: str, hidden: str, output: str) -> str:
        nodes, name = self._nodes, f"{module}.weight"
        weight = nodes.constant(name, self._checkpoint.tensor(name).dequantize())
        product = nodes.add("FusedMatMul", [hidden, weight], f"{module}.product", domain=CONTRIB, transB=1)
        return nodes.add("Add", [product, self._vector(f"{module}.bias")], output)

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self._spec.token_types > 1 else [])]
        shape = ["batch_size", "sequence_length"]
        return [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in names]

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        shape: list[str | int] = ["batch_size", "sequence_length", self._spec.hidden_size]
        outputs = [helper.make_tensor_value_info(_STATES, TensorProto.FLOAT, shape)]
        if self._spec.labels:
            leading = shape[:1] if self._spec.task == "sequence-classification" else shape[:2]
            outputs.append(
                helper.make_tensor_value_info(_LOGITS, TensorProto.FLOAT, [*leading, len(self._spec.labels)])
            )
        return outputs


def expected_operators(spec: EncoderSpec, linears: Mapping[str, int]) -> Mapping[str, int]:
    """How often each operator has to be there; `linears`: which operators stand for the layers' six products, and how often."""
    expected = Counter(
        {
            "MultiHeadAttention": spec.layers,
            "SkipLayerNormalization": 2 * spec.layers + 1,
            _ACTIVATIONS[spec.activation]: spec.layers,
            **dict.fromkeys(_UNFUSED, 0),
        }
    )
    expected.update(linears)
    if spec.labels:
        expected["FusedMatMul"] += 2 if spec.pooler else 1
    if spec.pooler is not None:
        expected["Tanh" if spec.pooler == "tanh" else "Relu"] += 1
    return expected


def require_fused(model: onnx.ModelProto, spec: EncoderSpec, linears: Mapping[str, int]) -> None:
    """Raises ArtifactError naming every operator whose count is not that of a fully fused graph."""
    found = Counter(node.op_type for node in model.graph.node)
    wrong = [
        f"{name} {found[name]} instead of {count}"
        for name, count in expected_operators(spec, linears).items()
        if found[name] != count
    ]
    if wrong:
        raise ArtifactError(f"the ONNX graph is not fused as it should be: {', '.join(wrong)}")
