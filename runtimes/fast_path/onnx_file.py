"""The nodes and weights of an ONNX file, read without the onnx package.

Spec: onnx.proto3 (field numbers of ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeport.errors import ArtifactError
from edgeport.runtimes.protobuf import fields, numbers, text, text_of, varints

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT = 1, 3
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME = 1, 2, 8

TYPE_BITS: Mapping[int, tuple[str, int]] = {
    1: ("FLOAT", 32),
    2: ("UINT8", 8),
    3: ("INT8", 8),
    6: ("INT32", 32),
    7: ("INT64", 64),
    10: ("FLOAT16", 16),
    11: ("DOUBLE", 64),
    16: ("BFLOAT16", 16),
    17: ("FLOAT8E4M3FN", 8),
    21: ("UINT4", 4),
    22: ("INT4", 4),
}
"""TensorProto.DataType: name, bits of an element."""


@dataclass(frozen=True, slots=True)
class Weight:
    """An initializer. type: TensorProto's name of it, or its number where it is not known here."""

    name: str
    type: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def is_matrix(self) -> bool:
        return sum(size > 1 for size in self.shape) >= 2


@dataclass(frozen=True, slots=True)
class Node:
    """attributes: those that are integers."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """makers: which node makes an output."""

    nodes: tuple[Node, ...]
    weights: Mapping[str, Weight]
    makers: Mapping[str, Node]

    def weights_behind(self, name: str) -> Iterator[Weight]:
        """The initializers `name` is computed from by operators that only unpack, in the order of inputs."""
        waiting, seen = [name], {name}
        while waiting:
            item = waiting.pop(0)
            if item in self.weights:
                yield self.weights[item]
            elif item in self.makers and self.makers[item].operator in UNPACKING:
                fresh = [name for name in self.makers[item].inputs if name and name not in seen]
                seen.update(fresh)
                waiting.extend(fresh)


UNPACKING = ("Cast", "DequantizeLinear", "Identity", "Reshape", "Transpose")
"""Operators a weight may pass before it is used."""


def read_onnx(path: Path) -> OnnxFile:
    """The main graph; subgraphs are not looked into. Raises ArtifactError for what is no ONNX model."""
    nodes: list[Node] = []
    weights: dict[str, Weight] = {}
    try:
        model = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    graphs = [payload for number, _, payload in fields(model) if number == _MODEL_GRAPH]
    if not graphs:
        raise ArtifactError(f"{path} is no ONNX model: it has no graph")
    for number, _, payload in fields(b"".join(graphs)):  # messages merge
        if number == _GRAPH_NODE:
            nodes.append(_node(payload))
        elif number == _GRAPH_INITIALIZER:
            weight = _weight(payload)
            weights[weight.name] = weight
    makers = {output: node for node in nodes for output in node.outputs if output}
    return OnnxFile(tuple(nodes), weights, makers)


def _node(message: bytes) -> Node:
    inputs, outputs, attributes = [], [], {}
    for number, _, payload in fields(message):
        if number == _NODE_INPUT:
            inputs.append(text(payload))
        elif number == _NODE_OUTPUT:
            outputs.append(text(payload))
        elif number == _NODE_ATTRIBUTE:
            found = dict(numbers(payload))
            if _ATTRIBUTE_INT in found:
                attributes[text_of(payload, _ATTRIBUTE_NAME)] = found[_ATTRIBUTE_INT]
    name, operator = text_of(message, _NODE_NAME), text_of(message, _NODE_OPERATOR)
    return Node(name, operator, tuple(inputs), tuple(outputs), attributes)


def _weight(message: bytes) -> Weight:
    # Writers may pack the dimensions into one field or repeat it.
    shape = [value for number, value in numbers(message) if number == _TENSOR_DIMS]
    for number, _, payload in fields(message):
        if number == _TENSOR_DIMS and payload:
            shape += varints(payload)
    kind = next((value for number, value in numbers(message) if number == _TENSOR_TYPE), 0)
    name, bits = TYPE_BITS.get(kind, (f"type {kind}", 0))
    elements = 1
    for size in shape:
        elements *= size
    return Weight(text_of(message, _TENSOR_NAME), name, tuple(shape), -(-elements * bits // 8))
