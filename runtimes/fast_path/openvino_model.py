"""The weights behind each product of an OpenVINO model, before anything is compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgeport.runtimes.fast_path.openvino_kernels import CODES

_PRODUCT, _CONSTANT = "MatMul", "Constant"
_MOST_NODES = 32
"""Between a product and its constants: unpacking takes about ten; activations have the whole model behind them."""
_INDICES = ("i32", "i64")
"""Shapes of a Reshape and axes of a Transpose; they hold no weights."""
_BITS = {"u1": 1, "u2": 2, "u3": 3, "u6": 6, "u4": 4, "i4": 4, "nf4": 4, "f4e2m1": 4}
"""Element types of less than a byte."""


@dataclass(frozen=True, slots=True)
class Constant:
    """size_bytes: 0 for a type OpenVINO leaves open."""

    type: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def is_matrix(self) -> bool:
        return sum(size > 1 for size in self.shape) >= 2


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """type: of the codes, where scales turn them into weights. size_bytes: codes, scales and zero points."""

    type: str
    size_bytes: int


def weights_by_product(model: Any) -> Mapping[str, StoredWeights]:
    """Name of a MatMul (or of the addition of its bias) -> what the file stores of its weights; without products of activations."""
    found: dict[str, StoredWeights] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != _PRODUCT:
            continue
        for port in node.inputs():
            constants = list(_constants_behind(port.get_source_output().get_node()))
            matrices = [constant for constant in constants if constant and constant.is_matrix]
            if matrices and None not in constants:
                codes = next((matrix for matrix in matrices if matrix.type in CODES), matrices[0])
                size = sum(item.size_bytes for item in constants if item and item.type not in _INDICES)
                found.update(dict.fromkeys(_names(node), StoredWeights(codes.type, size)))
    return found


def _names(product: Any) -> Iterator[str]:
    """Its own, and those of the additions behind it: compiled into one node, they have the name of the addition."""
    yield product.get_friendly_name()
    for target in product.output(0).get_target_inputs():
        if target.get_node().get_type_name() == "Add":
            yield target.get_node().get_friendly_name()


def _constants_behind(node: Any) -> Iterator[Constant | None]:
    """The constants `node` is computed from, each once; None for what is only known in a run, or lies too far up."""
    waiting, seen = [node], {node.get_friendly_name()}
    while waiting:
        item = waiting.pop()
        if item.get_type_name() == _CONSTANT:
            yield constant_of(item.output(0))
        elif not item.inputs() or len(seen) > _MOST_NODES:
            yield None
            return
        for source in (port.get_source_output().get_node() for port in item.inputs()):
            if source.get_friendly_name() not in seen:
                seen.add(source.get_friendly_name())
                waiting.append(source)


def constant_of(port: Any) -> Constant:
    """Type and size of an output whose shape is known."""
    kind = port.get_element_type().get_type_name()
    shape = tuple(int(size.get_length()) for size in port.get_partial_shape())
    elements = 1
    for size in shape:
        elements *= size
    bits = _BITS.get(kind) or (0 if kind == "dynamic" else 8 * port.get_element_type().size)
    return Constant(kind, shape, -(-elements * bits // 8))
