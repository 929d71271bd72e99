"""Read the weights of an ONNX encoder back from its operators' own definitions, without code of the writer.

A product is called what its operator's output is called; that it stands at the right place is what the comparison of states with
the float model proves. MatMulNBits: B uint8 [N, blocks, block * bits / 8], low bits first, zero point 2**(bits-1);
GatherBlockQuantized the same along the last axis; DynamicQuantizeMatMul and DequantizeLinear: B int8 [K, N] with N scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeport.errors import ArtifactError

Floats = npt.NDArray[np.float32]
_PRODUCT = ".product"


def read_weights(path: Path) -> Iterator[tuple[str, Floats]]:
    """(name in the checkpoint, float32 values) of every weight. Raises ArtifactError for a file that cannot be read."""
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf raises its own DecodeError, which has no stable base
        raise ArtifactError(f"{path} is not a whole ONNX model: {error}") from error
    graph = _Graph(model.graph)
    for node in model.graph.node:
        yield from _weights_of(graph, node)


def _weights_of(graph: _Graph, node: onnx.NodeProto) -> Iterator[tuple[str, Floats]]:
    module = node.output[0].removesuffix(_PRODUCT)
    if node.op_type in ("MatMulNBits", "FusedMatMul", "DynamicQuantizeMatMul", "MatMul"):
        yield f"{module}.weight", graph.matrix(node)
    elif node.op_type == "GatherBlockQuantized":
        yield "embeddings.word_embeddings.weight", graph.blocks(node, node.input[0], node.input[2])
    elif node.op_type == "MultiHeadAttention":
        rows = graph.value(node.input[3]).reshape(3, -1)
        for producer, bias in zip(node.input[:3], rows, strict=True):
            yield f"{producer.removesuffix(_PRODUCT)}.bias", bias
    elif node.op_type == "SkipLayerNormalization":
        yield from ((name, graph.value(name)) for name in node.input[2:])
    elif node.op_type in ("Gather", "Slice") and graph.is_constant(node.input[0]):
        yield graph.source(node.input[0]), graph.value(node.input[0])
    elif node.op_type in ("BiasGelu", "FastGelu", "Add"):
        yield from ((graph.source(name), graph.value(name)) for name in node.input if graph.is_constant(name))


class _Graph:
    """Constants by name, through the casts that onnxruntime folds."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        self._producers = {node.output[0]: node for node in graph.node}

    def is_constant(self, name: str) -> bool:
        return self.source(name) in self._constants

    def source(self, name: str) -> str:
        producer = self._producers.get(name)
        return str(producer.input[0]) if producer is not None and producer.op_type == "Cast" else name

    def value(self, name: str) -> Floats:
        found = self._constants.get(self.source(name))
        if found is None:
            raise ArtifactError(f"{name} is not a constant of the graph")
        return np.asarray(found, dtype=np.float32)

    def matrix(self, node: onnx.NodeProto) -> Floats:
        """[out_features, in_features] of a product."""
        if node.op_type == "FusedMatMul":
            return self.value(node.input[1])
        if node.op_type == "MatMulNBits":
            return self.blocks(node, node.input[1], node.input[2])
        stored = node.input[1:3]
        if node.op_type == "MatMul":
            stored = self._producers[node.input[1]].input[:2]
        codes, scales = stored
        return np.asarray(self.value(codes).T * self.value(scales)[:, None], dtype=np.float32)

    def blocks(self, node: onnx.NodeProto, codes: str, scales: str) -> Floats:
        """Codes and one scale per block of a row -> [rows, columns]."""
        attributes: Mapping[str, Any] = {
            item.name: onnx.helper.get_attribute_value(item) for item in node.attribute
        }
        bits, block = int(attributes["bits"]), int(attributes["block_size"])
        packed = np.asarray(self._constants[codes])
        packed = packed.reshape(packed.shape[0], -1)
        if bits == 4:
            packed = np.stack((packed & 15, packed >> 4), axis=-1).reshape(packed.shape[0], -1)
        elif bits != 8:
            raise ArtifactError(f"{codes} has codes of {bits} bits, expected 4 or 8")
        factors = np.repeat(self.value(scales).reshape(packed.shape[0], -1), block, axis=1)
        return np.asarray((packed.astype(np.float32) - (1 << (bits - 1))) * factors, dtype=np.float32)
