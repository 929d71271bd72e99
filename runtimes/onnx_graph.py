"""Make a serialized ONNX decoder end at its last hidden state, with nothing but bytes: a device has no onnx package.

The output head is found behind `logits`, the tensor it multiplies becomes the graph's output, and the nodes and outputs that
only the head needed are left out. Fields that are not looked into are copied as they are.
Spec: onnx.proto3 (field numbers of ModelProto, GraphProto, NodeProto, AttributeProto).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeport.errors import ArtifactError, UnsupportedModel
from edgeport.runtimes.protobuf import field, fields, text, text_of

MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_OUTPUT = 1, 12
NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_GRAPHS = (6, 11)
_VALUE_NAME = 1

_LOGITS = "logits"
_PRODUCTS = ("MatMul", "MatMulNBits", "FusedMatMul", "Gemm", "MatMulInteger")
_BEFORE_HEAD = ("Cast", "Gather", "Slice", "Squeeze", "Unsqueeze")
"""What may stand between the last norm and the head's product: a cast, the choice of the last row."""
_ROW_CHOICES = ("Gather", "Slice", "Squeeze")
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
    parts = [(number, raw, payload) for number, raw, payload in fields(model)]
    graph = b"".join(payload for number, _, payload in parts if number == MODEL_GRAPH)  # messages merge
    if not graph:
        raise ArtifactError("this is no ONNX model: it has no graph")
    ended, name = _end_graph(graph)
    rest = b"".join(raw for number, raw, _ in parts if number != MODEL_GRAPH)
    return rest + field(MODEL_GRAPH, ended), name


def _end_graph(graph: bytes) -> tuple[bytes, str]:
    nodes: list[_Node] = []
    outputs: dict[str, bytes] = {}
    rest = bytearray()
    for number, raw, payload in fields(graph):
        if number == GRAPH_NODE:
            nodes.append(_read_node(payload, raw))
        elif number == GRAPH_OUTPUT:
            outputs[text_of(payload, _VALUE_NAME)] = raw
        else:
            rest += raw
    name = _head_input(nodes)
    outputs.pop(_LOGITS, None)
    # no type: onnxruntime infers it, and it may be float or float16
    outputs[name] = field(GRAPH_OUTPUT, field(_VALUE_NAME, name.encode("utf-8", "surrogateescape")))
    needed = _needed(nodes, set(outputs))
    return b"".join([*(node.raw for node in needed), bytes(rest), *outputs.values()]), name


def head_product(graph: bytes) -> tuple[bytes, str] | None:
    """The serialized node that multiplies every row of the last norm's output by the head, and the name of these rows.

    None for a graph without a head behind `logits`, and for one that multiplies its last row only.
    """
    nodes = [_read_node(payload, payload) for number, _, payload in fields(graph) if number == GRAPH_NODE]
    makers = {name: node for node in nodes for name in node.outputs if name}
    node = makers.get(_walk_back(makers, _LOGITS, _AFTER_HEAD))
    if node is None or node.operator not in _PRODUCTS or not node.inputs:
        return None
    rows = node.inputs[0]
    made_by = makers.get(rows)
    return None if made_by is None or made_by.operator in _ROW_CHOICES else (node.raw, rows)


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
    for number, _, value in fields(payload):
        if number == NODE_INPUT:
            inputs.append(text(value))
        elif number == _NODE_OUTPUT:
            outputs.append(text(value))
        elif number == _NODE_OPERATOR:
            operator = text(value)
        elif number == _NODE_ATTRIBUTE:
            read |= _read_by_subgraphs(value)
    return _Node(operator, tuple(inputs), tuple(outputs), frozenset(read | set(inputs)), raw)


def _read_by_subgraphs(attribute: bytes) -> set[str]:
    names: set[str] = set()
    for number, _, graph in fields(attribute):
        if number in _ATTRIBUTE_GRAPHS:
            for kind, raw, payload in fields(graph):
                if kind == GRAPH_NODE:
                    names |= _read_node(payload, raw).names_read
                elif kind == GRAPH_OUTPUT:
                    names.add(text_of(payload, _VALUE_NAME))
    return names
