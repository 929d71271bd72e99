"""An ONNX file as its protobuf tells it, from the mapped file: nothing of a weight is read, and names are read once.

Spec: onnx.proto3 (field numbers of ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto, ValueInfoProto).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeport.errors import ArtifactError, UsageError
from edgeport.runtimes.protobuf import spans

Span = tuple[int, int]
"""First byte and end of a message in the file."""
MOST_FIELDS = 4_000_000
"""Of one file: nodes, names, dimensions. A graph of a thousand layers has a tenth of it; damage or an attack has more."""
LONGEST_NAME = 1 << 12
MOST_DIMENSIONS, MOST_ELEMENTS = 16, 1 << 60
_MODEL_IR, _MODEL_PRODUCER, _MODEL_VERSION, _MODEL_GRAPH, _MODEL_OPSET = 1, 2, 3, 7, 8
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT = 1, 3
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL = 1, 2, 8, 9, 13

TYPES: Mapping[int, tuple[str, int]] = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32), 13: ("uint64", 64),
    16: ("bfloat16", 16), 17: ("float8e4m3fn", 8), 18: ("float8e4m3fnuz", 8), 19: ("float8e5m2", 8),
    20: ("float8e5m2fnuz", 8), 21: ("uint4", 4), 22: ("int4", 4), 23: ("float4e2m1", 4), 24: ("float8e8m0", 8),
    25: ("uint2", 2), 26: ("int2", 2),
}  # fmt: skip
"""TensorProto.DataType: name, bits of an element."""


@dataclass(frozen=True, slots=True)
class External:
    """Where an initializer lies outside of the file, as it says; length None: to the end of that file."""

    location: str
    offset: int
    length: int | None


@dataclass(frozen=True, slots=True)
class Initializer:
    """raw: its bytes in the file itself; None where they lie outside or in a typed field."""

    name: str
    type: str
    shape: tuple[int, ...]
    size_bytes: int
    raw: Span | None
    external: External | None

    @property
    def elements(self) -> int:
        count = 1
        for extent in self.shape:
            count *= extent
        return count


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """attributes: those that are integers."""

    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class OnnxHeader:
    """inputs, outputs: name -> dimensions, None for one that is named or open. opset: of the default domain, 0 without one."""

    ir_version: int
    producer: str
    opset: int
    nodes: tuple[OnnxNode, ...]
    initializers: Mapping[str, Initializer]
    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: Mapping[str, tuple[int | None, ...]]


def read_onnx_header(path: Path) -> OnnxHeader:
    """The main graph; subgraphs are not looked into. Raises UsageError for what is no ONNX model or is damaged."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return _Reader(view).model()
    except OSError as failure:
        raise UsageError(f"{path} cannot be read: {failure.strerror}") from failure
    except ArtifactError as failure:
        raise UsageError(
            f"{path.name}: {failure.message}", hint="export it again, or fetch it again"
        ) from failure
    except ValueError as failure:  # mmap of an empty file
        raise UsageError(f"{path} is no ONNX model: {failure}") from failure


@dataclass(slots=True)
class _Graph:
    """What is collected of a graph; a model may hold it in several pieces, which merge."""

    nodes: list[OnnxNode] = field(default_factory=list)
    initializers: dict[str, Initializer] = field(default_factory=dict)
    inputs: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[int | None, ...]] = field(default_factory=dict)


class _Reader:
    """Walks the mapped file; counts fields, so that a file of nothing but tiny ones is refused and not read for minutes."""

    def __init__(self, view: mmap.mmap) -> None:
        self._view = view
        self._fields = 0

    def model(self) -> OnnxHeader:
        graph, ir_version, opset, has_graph = _Graph(), 0, 0, False
        producer = {_MODEL_PRODUCER: "", _MODEL_VERSION: ""}
        for number, value, first, end in self._spans(0, len(self._view)):
            if number == _MODEL_IR:
                ir_version = value
            elif number in producer:
                producer[number] = self._text(first, end)
            elif number == _MODEL_OPSET:
                opset = max(opset, self._default_opset(first, end))
            elif number == _MODEL_GRAPH and end > first:
                has_graph = True
                self._graph(first, end, graph)
        if not has_graph:
            raise ArtifactError("this is no ONNX model: it has no graph")
        made_by = " ".join(filter(None, producer.values()))
        return OnnxHeader(
            ir_version, made_by, opset, tuple(graph.nodes), graph.initializers, graph.inputs, graph.outputs
        )

    def _graph(self, begin: int, end: int, graph: _Graph) -> None:
        for number, _, first, stop in self._spans(begin, end):
            if number == _GRAPH_NODE:
                graph.nodes.append(self._node(first, stop))
            elif number == _GRAPH_INITIALIZER:
                item = self._initializer(first, stop)
                graph.initializers[item.name] = item
            elif number in (_GRAPH_INPUT, _GRAPH_OUTPUT):
                name, shape = self._value(first, stop)
                (graph.inputs if number == _GRAPH_INPUT else graph.outputs)[name] = shape

    def _node(self, begin: int, end: int) -> OnnxNode:
        inputs, outputs, attributes, operator, domain = [], [], {}, "", ""
        for number, _, first, stop in self._spans(begin, end):
            if number == _NODE_INPUT:
                inputs.append(self._text(first, stop))
            elif number == _NODE_OUTPUT:
                outputs.append(self._text(first, stop))
            elif number == _NODE_OPERATOR:
                operator = self._text(first, stop)
            elif number == _NODE_DOMAIN:
                domain = self._text(first, stop)
            elif number == _NODE_ATTRIBUTE:
                name, value = self._attribute(first, stop)
                if value is not None:
                    attributes[name] = value
        return OnnxNode(operator, domain, tuple(inputs), tuple(outputs), attributes)

    def _attribute(self, begin: int, end: int) -> tuple[str, int | None]:
        name, found = "", None
        for number, value, first, stop in self._spans(begin, end):
            if number == _ATTRIBUTE_NAME:
                name = self._text(first, stop)
            elif number == _ATTRIBUTE_INT and first == stop:
                found = value
        return name, found

    def _initializer(self, begin: int, end: int) -> Initializer:
        name, kind, raw = "", 0, None
        shape: list[int] = []
        pairs: dict[str, str] = {}
        for number, value, first, stop in self._spans(begin, end):
            if number == _TENSOR_DIMS:  # writers may pack the dimensions into one field or repeat it
                shape += self._packed(first, stop) if stop > first else [value]
            elif number == _TENSOR_TYPE:
                kind = value
            elif number == _TENSOR_NAME:
                name = self._text(first, stop)
            elif number == _TENSOR_RAW:
                raw = (first, stop)
            elif number == _TENSOR_EXTERNAL:
                pairs |= dict([self._pair(first, stop)])
        if len(shape) > MOST_DIMENSIONS:
            raise ArtifactError(f"{name!r:.80} has {len(shape)} dimensions")
        label, bits = TYPES.get(kind, (f"type {kind}", 0))
        elements = 1
        for extent in shape:
            elements *= extent
        if elements > MOST_ELEMENTS:
            raise ArtifactError(f"{name!r:.80} has the shape {shape!r:.80}")
        external = _external(pairs) if pairs else None
        return Initializer(name, label, tuple(shape), -(-elements * bits // 8), raw, external)

    def _value(self, begin: int, end: int) -> tuple[str, tuple[int | None, ...]]:
        """ValueInfoProto: name, and type.tensor_type.shape.dim."""
        name, shape = "", []
        for number, _, first, stop in self._spans(begin, end):
            if number == 1:
                name = self._text(first, stop)
        for dimension in self._inside((begin, end), (2, 1, 2, 1)):
            sizes = [value for number, value, _, _ in self._spans(*dimension) if number == 1]
            shape.append(sizes[-1] if sizes else None)
        return name, tuple(shape)

    def _inside(self, span: Span, path: tuple[int, ...]) -> Iterator[Span]:
        """Every message at `path` below the message at `span`."""
        for number, _, first, end in self._spans(*span):
            if number != path[0]:
                continue
            if len(path) == 1:
                yield first, end
            else:
                yield from self._inside((first, end), path[1:])

    def _default_opset(self, begin: int, end: int) -> int:
        domain, version = "", 0
        for number, value, first, stop in self._spans(begin, end):
            if number == 1:
                domain = self._text(first, stop)
            elif number == 2:
                version = value
        return version if domain in ("", "ai.onnx") else 0

    def _pair(self, begin: int, end: int) -> tuple[str, str]:
        texts = {number: self._text(first, stop) for number, _, first, stop in self._spans(begin, end)}
        return texts.get(1, ""), texts.get(2, "")

    def _packed(self, begin: int, end: int) -> list[int]:
        values, value, shift = [], 0, 0
        for byte in self._view[begin : min(end, begin + LONGEST_NAME)]:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                values.append(value)
                value = shift = 0
        return values

    def _text(self, first: int, end: int) -> str:
        return self._view[first : min(end, first + LONGEST_NAME)].decode("utf-8", "replace")

    def _spans(self, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        for item in spans(self._view, begin, end):
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise ArtifactError(f"its graph has more than {MOST_FIELDS} fields")
            yield item


def _external(pairs: Mapping[str, str]) -> External:
    """Numbers that are none become -1, which lies in no file."""
    length = pairs.get("length")
    return External(
        pairs.get("location", ""),
        _number(pairs.get("offset", "0")),
        None if length is None else _number(length),
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
