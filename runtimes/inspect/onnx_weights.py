"""The weights in an ONNX graph: how many parameters they stand for before packing, the embedding and the output head.

Spec: onnxruntime ContribOperators.md (MatMulNBits, GatherBlockQuantized, QAttention), ONNX Operators.md (DequantizeLinear).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgeport.runtimes.inspect.onnx_header import Initializer, OnnxHeader, OnnxNode

_SCALES_AND_ZEROS: Mapping[str, tuple[int, ...]] = {
    "MatMulNBits": (2, 3, 4),
    "GatherBlockQuantized": (2, 3),
    "DequantizeLinear": (1, 2),
    "QuantizeLinear": (1, 2),
    "MatMulInteger": (2, 3),
    "DynamicQuantizeMatMul": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "DynamicQuantizeLSTM": (),
}
"""Inputs that are no weights but belong to them."""
_NO_WEIGHT_NAME = re.compile(r"(cos|sin)_cache|inv_freq|rotary|\brope\b|_scales?$|_zero_points?$|_zp$")
_WEIGHT_INTEGERS = ("uint8", "int8", "uint4", "int4", "uint2", "int2")
_UNPACKING = ("Cast", "DequantizeLinear", "Identity", "Reshape", "Transpose")
_LOOKUPS = ("Gather", "GatherBlockQuantized", "EmbedLayerNormalization")
_PRODUCTS = ("MatMul", "MatMulNBits", "FusedMatMul", "Gemm", "MatMulInteger", "MatMulIntegerToFloat")
_AFTER_HEAD = ("Add", "Cast", "Div", "Identity", "Mul", "Reshape", "Slice", "Tanh")
_STEPS = 64


@dataclass(frozen=True, slots=True)
class Graph:
    """makers: the node that makes an output."""

    header: OnnxHeader
    makers: Mapping[str, OnnxNode]

    def weight(self, name: str) -> Initializer | None:
        """The initializer `name` is unpacked from; None where it is computed."""
        for _ in range(_STEPS):
            if name in self.header.initializers:
                return self.header.initializers[name]
            node = self.makers.get(name)
            if node is None or node.operator not in _UNPACKING or not node.inputs:
                return None
            name = node.inputs[0]
        return None


def graph_of(header: OnnxHeader) -> Graph:
    return Graph(header, {name: node for node in header.nodes for name in node.outputs if name})


def parameters(graph: Graph) -> int:
    """Weights before packing; scales, zero points and tables of rotary positions are none."""
    counted = _packed_counts(graph)
    beside = {
        item.name
        for node in graph.header.nodes
        for index in _SCALES_AND_ZEROS.get(node.operator, ())
        if index < len(node.inputs) and (item := graph.weight(node.inputs[index])) is not None
    }
    total = 0
    for item in stored_once(graph.header):
        if item.name in counted:
            total += counted[item.name]
        elif item.name not in beside and not _NO_WEIGHT_NAME.search(item.name):
            is_float = item.type.startswith(("float", "bfloat")) and item.elements > 1
            is_codes = item.type in _WEIGHT_INTEGERS and len(item.shape) > 1
            total += item.elements if is_float or is_codes else 0
    return total


def stored_once(header: OnnxHeader) -> Iterator[Initializer]:
    """Every initializer; of those that share their bytes in a data file the first."""
    seen: set[tuple[str, int]] = set()
    for item in header.initializers.values():
        place = (item.external.location, item.external.offset) if item.external is not None else None
        if place is None or item.size_bytes == 0 or place not in seen:
            yield item
        if place is not None:
            seen.add(place)


def _packed_counts(graph: Graph) -> dict[str, int]:
    """Weights of each packed initializer, by its name; one that is read by two nodes counts once."""
    found: dict[str, int] = {}
    for node in graph.header.nodes:
        if node.operator == "MatMulNBits" and len(node.inputs) > 1:
            item = graph.weight(node.inputs[1])
            if item is not None:
                found[item.name] = node.attributes.get("K", 0) * node.attributes.get("N", 0)
        elif node.operator == "GatherBlockQuantized" and node.inputs:
            item = graph.weight(node.inputs[0])
            if item is not None and item.name not in found:
                bits = max(1, node.attributes.get("bits", 4))
                found[item.name] = item.elements * (max(1, 8 // bits) if item.type == "uint8" else 1)
    return found


def embedding(graph: Graph) -> Initializer | None:
    """The table the token ids are looked up in."""
    for node in graph.header.nodes:
        if node.operator in _LOOKUPS and "input_ids" in node.inputs:
            tables = [graph.weight(name) for name in node.inputs if name != "input_ids"]
            return max(
                (item for item in tables if item is not None), key=lambda item: item.size_bytes, default=None
            )
    return None


def head(graph: Graph) -> Initializer | None:
    """The matrix behind `logits`."""
    name = "logits"
    for _ in range(_STEPS):
        node = graph.makers.get(name)
        if node is None or not node.inputs:
            return None
        if node.operator in _PRODUCTS:
            return graph.weight(node.inputs[1]) if len(node.inputs) > 1 else None
        if node.operator not in _AFTER_HEAD:
            return None
        name = next((item for item in node.inputs if item in graph.makers), "")
    return None


def embedding_rows(graph: Graph) -> int | None:
    table = embedding(graph)
    return table.shape[0] if table is not None and len(table.shape) > 1 else None
