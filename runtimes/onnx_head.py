"""Let a serialized ONNX decoder compute logits of the rows that are asked for: a prompt needs those of its last token only.

Exporters write graphs whose head multiplies every row: 256 tokens of a 150k vocabulary are 150 MB of logits and, in a small
model, a quarter of the arithmetic. A Slice before the head's product begins at the row that a new input names. The file stays
as it is; the change is made on the bytes that are opened, because a device has no onnx package.
Spec: onnx.proto3 (field numbers), Operators.md (Slice-13).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeport.runtimes.onnx_graph import GRAPH_NODE, GRAPH_OUTPUT, MODEL_GRAPH, NODE_INPUT, head_product
from edgeport.runtimes.protobuf import field, fields, number_field, text_of

LOGITS_BEGIN = "edgeport.logits_begin"
"""The new input, int64 [1]: the first row of the chunk whose logits are computed."""
_LAST, _AXIS, _ROWS = "edgeport.logits_end", "edgeport.logits_axis", "edgeport.logits_rows"
_GRAPH_INITIALIZER, _GRAPH_INPUT = 5, 11
_INT64 = 7
_NO_END = 2**63 - 1


def choose_logits_rows(model: bytes) -> bytes:
    """The model with the input LOGITS_BEGIN. One without a head behind `logits` that multiplies all rows comes back as it was.

    Raises ArtifactError for what is no ONNX model.
    """
    graph = b"".join(payload for number, _, payload in fields(model) if number == MODEL_GRAPH)
    found = head_product(graph)
    if found is None:
        return model
    node, rows = found
    rest = b"".join(raw for number, raw, _ in fields(model) if number != MODEL_GRAPH)
    return rest + field(MODEL_GRAPH, _with_slice(graph, node, rows))


def _with_slice(graph: bytes, node: bytes, rows: str) -> bytes:
    parts = bytearray()
    for number, raw, payload in fields(graph):
        if number == GRAPH_NODE and payload == node:
            parts += field(GRAPH_NODE, _slice(rows)) + field(GRAPH_NODE, _with_first_input(payload, _ROWS))
        elif number == GRAPH_OUTPUT and text_of(payload, 1) == "logits":
            parts += field(GRAPH_OUTPUT, _with_rows(payload))
        else:
            parts += raw
    parts += field(_GRAPH_INITIALIZER, _constant(_LAST, _NO_END))
    parts += field(_GRAPH_INITIALIZER, _constant(_AXIS, 1))
    parts += field(_GRAPH_INPUT, _scalar_input(LOGITS_BEGIN))
    return bytes(parts)


def _slice(rows: str) -> bytes:
    inputs = (rows, LOGITS_BEGIN, _LAST, _AXIS)
    named = b"".join(field(NODE_INPUT, _bytes(name)) for name in inputs)
    return named + field(2, _bytes(_ROWS)) + field(3, _bytes(_ROWS)) + field(4, b"Slice")


def _with_first_input(node: bytes, name: str) -> bytes:
    parts, is_first = bytearray(), True
    for number, raw, _ in fields(node):
        if number == NODE_INPUT and is_first:
            parts += field(NODE_INPUT, _bytes(name))
            is_first = False
        else:
            parts += raw
    return bytes(parts)


def _with_rows(value: bytes) -> bytes:
    """ValueInfoProto of a tensor [batch, rows, ...] with a size of its own in place of the rows: they are no longer input_ids'."""
    return _replaced(value, (2, 1, 2), _with_second_dimension)


def _replaced(message: bytes, path: Sequence[int], change: Callable[[bytes], bytes]) -> bytes:
    """The message with `change` applied to the field at `path`."""
    if not path:
        return change(message)
    parts = (
        field(number, _replaced(payload, path[1:], change)) if number == path[0] and payload else raw
        for number, raw, payload in fields(message)
    )
    return b"".join(parts)


def _with_second_dimension(shape: bytes) -> bytes:
    """TensorShapeProto: dimensions, each a number (field 1) or a name (field 2)."""
    dimensions = [raw for number, raw, _ in fields(shape) if number == 1]
    if len(dimensions) > 1:
        dimensions[1] = field(1, field(2, _bytes(_ROWS)))
    return b"".join(dimensions)


def _constant(name: str, value: int) -> bytes:
    """TensorProto: dims, data_type, name, raw_data."""
    raw = value.to_bytes(8, "little", signed=True)
    return number_field(1, 1) + number_field(2, _INT64) + field(8, _bytes(name)) + field(9, raw)


def _scalar_input(name: str) -> bytes:
    """ValueInfoProto of int64 [1]."""
    shape = field(1, number_field(1, 1))
    tensor = number_field(1, _INT64) + field(2, shape)
    return field(1, _bytes(name)) + field(2, field(1, tensor))


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
