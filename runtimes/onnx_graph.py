"""Make a serialized ONNX decoder end at its last hidden state, with nothing but bytes: a device has no onnx package.

The output head is found behind `logits`, the tensor it multiplies becomes the graph's output, and the nodes and outputs that
only the head needed are left out. Fields that are not looked into are copied as they are.
Specs: onnx.proto3 (field numbers of ModelProto, GraphProto, NodeProto, AttributeProto), https://protobuf.dev (wire format).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgeport.errors import ArtifactError, UnsupportedModel

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_GRAPHS = (6, 11)
_VALUE_NAME = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_LOGITS = "logits"
_PRODUCTS = ("MatMul", "MatMulNBits", "FusedMatMul", "Gemm", "MatMulInteger")
_BEFORE_HEAD = ("Cast", "Gather", "Slice", "Squeeze", "Unsqueeze")
"""What may stand between the last norm and the head's product: a cast, the choice of the last row."""
_AFTER_HEAD = (*_BEFORE_HEAD, "Add", "Div", "Identity", "Mul", "Reshape", "Tanh")
"""What may stand between the head's product and `logits`: a bias, soft capping."""


@dataclass(frozen=True, slots=True)
class _Node:
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    names_read: frozenset[str]
    """Its inputs and what its subgraphs take from outside."""
    raw: bytes


def end_at_hidden_states(model: bytes) -> tuple[bytes, str]:
    """The model with the head's input [batch, sequence, hidden_size] as its output instead of `logits`, and that output's name.

    Other outputs (the cache) stay. Raises ArtifactError for what is no ONNX model, UnsupportedModel without a head behind
    `logits`.
    """
    parts = [(number, raw, payload) for number, raw, payload in _fields(model)]
    graph = b"".join(payload for number, _, payload in parts if number == _MODEL_GRAPH)  # messages merge
    if not graph:
        raise ArtifactError("this is no ONNX model: it has no graph")
    ended, name = _end_graph(graph)
    rest = b"".join(raw for number, raw, _ in parts if number != _MODEL_GRAPH)
    return rest + _field(_MODEL_GRAPH, ended), name


def _end_graph(graph: bytes) -> tuple[bytes, str]:
    nodes: list[_Node] = []
    outputs: dict[str, bytes] = {}
    rest = bytearray()
    for number, raw, payload in _fields(graph):
        if number == _GRAPH_NODE:
            nodes.append(_read_node(payload, raw))
        elif number == _GRAPH_OUTPUT:
            outputs[_text(payload, _VALUE_NAME)] = raw
        else:
            rest += raw
    name = _head_input(nodes)
    outputs.pop(_LOGITS, None)
    # no type: onnxruntime infers it, and it may be float or float16
    outputs[name] = _field(_GRAPH_OUTPUT, _field(_VALUE_NAME, name.encode("utf-8", "surrogateescape")))
    needed = _needed(nodes, set(outputs))
    return b"".join([*(node.raw for node in needed), bytes(rest), *outputs.values()]), name


def _head_input(nodes: Sequence[_Node]) -> str:
    """The tensor the output head multiplies, as it comes out of the last norm."""
    makers = {name: node for node in nodes for name in node.outputs if name}
    node = makers.get(_walk_back(makers, _LOGITS, _AFTER_HEAD))
    if node is None or node.operator not in _PRODUCTS or not node.inputs:
        found = (
            "nothing makes it"
            if node is None
            else f"it comes from {node.operator or 'a node without a name'}"
        )
        raise UnsupportedModel(f"no output head behind {_LOGITS!r}: {found}")
    return _walk_back(makers, node.inputs[0], _BEFORE_HEAD)


def _walk_back(makers: Mapping[str, _Node], name: str, passed: Sequence[str]) -> str:
    """The first tensor behind `name` that no operator of `passed` makes; of two inputs the one that is computed."""
    for _ in range(len(makers)):  # a damaged graph may run in a circle
        node = makers.get(name)
        computed = [item for item in node.inputs if item in makers] if node else []
        if node is None or node.operator not in passed or not computed:
            break
        name = computed[0]
    return name


def _needed(nodes: Sequence[_Node], outputs: set[str]) -> list[_Node]:
    """The nodes, in their order (which is topological), that the outputs depend on."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted |= node.names_read
            kept.append(node)
    return kept[::-1]


def _read_node(payload: bytes, raw: bytes) -> _Node:
    inputs, outputs, read, operator = [], [], set(), ""
    for number, _, value in _fields(payload):
        if number == _NODE_INPUT:
            inputs.append(_name(value))
        elif number == _NODE_OUTPUT:
            outputs.append(_name(value))
        elif number == _NODE_OPERATOR:
            operator = _name(value)
        elif number == _NODE_ATTRIBUTE:
            read |= _read_by_subgraphs(value)
    return _Node(operator, tuple(inputs), tuple(outputs), frozenset(read | set(inputs)), raw)


def _read_by_subgraphs(attribute: bytes) -> set[str]:
    names: set[str] = set()
    for number, _, graph in _fields(attribute):
        if number in _ATTRIBUTE_GRAPHS:
            for kind, raw, payload in _fields(graph):
                if kind == _GRAPH_NODE:
                    names |= _read_node(payload, raw).names_read
                elif kind == _GRAPH_OUTPUT:
                    names.add(_text(payload, _VALUE_NAME))
    return names


def _name(raw: bytes) -> str:
    """A name as it is stored; what is no UTF-8 in a damaged file comes back as the same bytes."""
    return raw.decode("utf-8", "surrogateescape")


def _text(message: bytes, wanted: int) -> str:
    return next((_name(payload) for number, _, payload in _fields(message) if number == wanted), "")


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(field number, the whole field, its payload) of a serialized message; the payload is empty for numbers."""
    at = 0
    while at < len(message):
        begin = at
        key, at = _varint(message, at)
        kind, payload = key & 7, b""
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _BYTES:
            size, at = _varint(message, at)
            payload = message[at : at + size]
            at += size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ArtifactError(f"this is no ONNX model: byte {begin} begins no protobuf field")
        if at > len(message):
            raise ArtifactError("this is no ONNX model, or it is cut short")
        yield key >> 3, message[begin:at], payload


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first, and where it ends."""
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ArtifactError("this is no ONNX model, or it is cut short")


def _field(number: int, payload: bytes) -> bytes:
    return _encode(number << 3 | _BYTES) + _encode(len(payload)) + payload


def _encode(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(encoded + bytes([value]))
