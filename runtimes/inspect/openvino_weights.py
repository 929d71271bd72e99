"""The weights in an OpenVINO graph: which constants are weights, which are packed, and which of these do not stay packed.

OpenVINO keeps a packed constant as it is where it is followed by Convert, an optional Subtract, and Multiply (or by Convert alone,
of a float16 or bfloat16 one) on its way to a product or a lookup; otherwise it is computed once, when the model is compiled, and
stays in memory as floats. Spec: docs.openvino.ai, `Weight compression`; src/common/transformations, mark_dequantization_subgraph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgeport.runtimes.inspect.openvino_header import TYPE_BITS, Layer, OpenVinoHeader

CONSTANT = "Const"
_UNPACKING = ("Convert", "Subtract", "Multiply", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
_USES = ("MatMul", "Gather", "Convolution", "GroupConvolution", "EmbeddingBagOffsets")
_VECTOR_USES = ("Add", "Multiply")
_ROTATION = ("Cos", "Sin")
_FLOATS = ("f16", "bf16", "f32", "f64")
_STEPS = 16


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant on its way to a product or a lookup. passed: the operators between them. scale_users: those among `passed`
    layers that take its scales and zero points."""

    constant: Layer
    passed: tuple[str, ...]
    use: str
    scale_users: frozenset[str]

    @property
    def bits(self) -> int:
        return TYPE_BITS.get(element_type(self.constant), 0)

    @property
    def is_packed(self) -> bool:
        return self.bits <= 8

    @property
    def stays_packed(self) -> bool:
        """Whether OpenVINO keeps it in its stored type; a lookup needs no scale to do so."""
        return not self.is_packed or self.use == "Gather" or "Multiply" in self.passed


def weights(header: OpenVinoHeader) -> list[Weight]:
    """The matrices, in the order of the file."""
    found = (_weight(header, layer) for layer in constants(header) if _is_matrix(layer))
    return [item for item in found if item is not None]


def constants(header: OpenVinoHeader) -> Iterator[Layer]:
    return (layer for layer in header.layers.values() if layer.type == CONSTANT)


def element_type(constant: Layer) -> str:
    return constant.attributes.get("element_type", "")


def parameters(header: OpenVinoHeader, matrices: list[Weight]) -> int:
    """Weights before packing: the matrices, and vectors that are multiplied or added; no scales, zero points, rotary tables."""
    counted = {item.constant.number for item in matrices}
    scales = frozenset[str]().union(*(item.scale_users for item in matrices))
    total = sum(item.constant.elements for item in matrices)
    for layer in constants(header):
        is_vector = element_type(layer) in _FLOATS and layer.elements > 1
        if layer.number in counted or not is_vector:
            continue
        user = _after_converts(header, layer)
        if user is not None and user.type in _VECTOR_USES and user.number not in scales:
            total += 0 if _is_rotated(header, user) else layer.elements
    return total


def embedding(header: OpenVinoHeader, matrices: list[Weight]) -> Layer | None:
    """The table of the lookup by token: the largest that is looked up."""
    tables = [item.constant for item in matrices if item.use == "Gather"]
    return max(tables, key=lambda layer: layer.elements, default=None)


def head(header: OpenVinoHeader) -> Layer | None:
    """The matrix behind `logits`."""
    number = next((layer.number for layer in header.layers.values() if "logits" in _all_names(layer)), None)
    for _ in range(_STEPS):
        layer = header.layers.get(number or "")
        if layer is None:
            return None
        sources = header.sources.get(layer.number, ())
        if layer.type == "MatMul":
            return _constant_behind(header, sources[1]) if len(sources) > 1 else None
        number = sources[0] if sources else None
    return None


def _constant_behind(header: OpenVinoHeader, number: str) -> Layer | None:
    for _ in range(_STEPS):
        layer = header.layers.get(number)
        if layer is None or layer.type == CONSTANT:
            return layer
        sources = header.sources.get(number, ())
        if layer.type not in _UNPACKING or not sources:
            return None
        number = sources[0]
    return None


def _weight(header: OpenVinoHeader, constant: Layer) -> Weight | None:
    passed: list[str] = []
    users: set[str] = set()
    layer = constant
    for _ in range(_STEPS):
        targets = header.targets.get(layer.number, ())
        following = header.layers.get(targets[0]) if targets else None
        if following is None:
            return None
        if following.type in _USES:
            return Weight(constant, tuple(passed), following.type, frozenset(users))
        if following.type not in _UNPACKING:
            return None
        if following.type in ("Multiply", "Subtract"):
            # a constant that comes second is the scale of another one
            if header.sources.get(following.number, ("",))[0] != layer.number:
                return None
            users.add(following.number)
        passed.append(following.type)
        layer = following
    return None


def _is_matrix(constant: Layer) -> bool:
    known = TYPE_BITS.get(element_type(constant), 0)
    is_weight = element_type(constant) in _FLOATS or 0 < known <= 8
    return is_weight and sum(extent > 1 for extent in constant.shape) > 1


def _after_converts(header: OpenVinoHeader, layer: Layer) -> Layer | None:
    """The first operator behind a constant that is no conversion."""
    for _ in range(_STEPS):
        targets = header.targets.get(layer.number, ())
        following = header.layers.get(targets[0]) if targets else None
        if following is None or following.type not in ("Convert", "Reshape"):
            return following
        layer = following
    return None


def _is_rotated(header: OpenVinoHeader, layer: Layer) -> bool:
    """Whether the angles of rotary positions are made of it."""
    waiting, seen = [layer.number], 0
    while waiting and seen < _STEPS:
        seen += 1
        number = waiting.pop(0)
        kinds = [header.layers[item] for item in header.targets.get(number, ()) if item in header.layers]
        if any(item.type in _ROTATION for item in kinds):
            return True
        waiting += [item.number for item in kinds]
    return False


def _all_names(layer: Layer) -> list[str]:
    return [name.strip() for names in layer.names for name in names.split(",")]
