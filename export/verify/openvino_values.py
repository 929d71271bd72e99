"""The numbers behind a weight in an OpenVINO graph: constants unpacked, Convert, Subtract, Multiply and Reshape computed.

Element types per the OpenVINO documentation: u4 and i4 lie two to a byte, the even element in the low nibble; u2 four to a
byte, the first element in the lowest bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import ArtifactError

Floats = npt.NDArray[np.float32]
Node = Any

_PLAIN: dict[str, npt.DTypeLike] = {"u8": np.uint8, "i8": np.int8, "f16": np.float16, "f32": np.float32}
_SMALLEST_NORMAL = 0x38800000  # 2**-14 and 65504 as the bits of a float32
_LARGEST = 0x477FE000
_CHUNK_ELEMENTS = 1 << 17  # the work arrays stay in a core's cache
_OPERATIONS = ("Convert", "Subtract", "Multiply", "Reshape")


def is_weight(node: Node) -> bool:
    """Is every leaf above the node a constant, reached through decompression only?"""
    kind = node.get_type_name()
    if kind == "Constant":
        return True
    return kind in _OPERATIONS and all(
        is_weight(item.get_source_output().get_node()) for item in node.inputs()
    )


def root_constant(node: Node) -> str:
    """The unique name of the constant that holds the codes: first inputs all the way up."""
    while node.get_type_name() != "Constant":
        node = node.input(0).get_source_output().get_node()
    return str(node.get_name())


def evaluate(node: Node, purpose: str) -> Floats:
    """Float32 values of a node for which `is_weight` holds. Raises ArtifactError for an operation or type not known."""
    kind, shape = node.get_type_name(), tuple(node.output(0).get_shape())
    if kind == "Constant":
        return _unpack(node, purpose).reshape(shape)
    first = evaluate(node.input(0).get_source_output().get_node(), purpose)
    if kind == "Reshape":
        return first.reshape(shape)
    if kind == "Convert":
        return _rounded(first, node, purpose)
    if kind not in _OPERATIONS:
        raise ArtifactError(f"{purpose} is computed by {kind}, which is not a decompression")
    second = evaluate(node.input(1).get_source_output().get_node(), purpose)
    operation = np.subtract if kind == "Subtract" else np.multiply
    if first.shape == shape:  # in place: an embedding in float32 is the largest thing in this process
        return _rounded(operation(first, second, out=first), node, purpose)
    return _rounded(operation(first, second), node, purpose)


def _rounded(values: Floats, node: Node, purpose: str) -> Floats:
    """To the precision of the node's element type, kept as float32."""
    kind = node.get_element_type().get_type_name()
    if kind == "f32":
        return values
    if kind != "f16":
        raise ArtifactError(f"{purpose} is decompressed in {kind}, expected f16 or f32")
    if not (node.get_type_name() == "Convert" and _is_integer(node)):  # codes of 8 bits or fewer are exact
        _round_to_half(values.reshape(-1))
    return values


def _is_integer(node: Node) -> bool:
    return bool(node.get_input_element_type(0).is_integral())


def _round_to_half(values: Floats) -> None:
    """In place to the nearest float16. Only elements that are not one already are converted, which is slow in numpy."""
    for start in range(0, values.size, _CHUNK_ELEMENTS):
        chunk = values[start : start + _CHUNK_ELEMENTS]
        bits = chunk.view(np.uint32)
        magnitude = bits & np.uint32(0x7FFFFFFF)
        inexact = (bits & np.uint32(0x1FFF)) != 0  # more than float16's 10 mantissa bits
        inexact |= (magnitude - np.uint32(1)) < np.uint32(_SMALLEST_NORMAL - 1)  # zero wraps to the largest
        inexact |= magnitude > np.uint32(_LARGEST)
        if inexact.any():
            with np.errstate(over="ignore"):
                chunk[inexact] = chunk[inexact].astype(np.float16)


def _unpack(node: Node, purpose: str) -> Floats:
    """A constant's elements, flat, as a fresh float32 array."""
    kind = node.get_element_type().get_type_name()
    memory: npt.NDArray[np.uint8] = node.data.reshape(-1).view(np.uint8)
    if kind == "u2":
        quarters = np.stack([memory >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1).reshape(-1)
        return quarters[: int(np.prod(node.output(0).get_shape(), dtype=np.int64))].astype(np.float32)
    if kind in ("u4", "i4"):
        nibbles = np.empty(memory.size * 2, dtype=np.uint8)
        nibbles[0::2] = memory & 15
        nibbles[1::2] = memory >> 4
        codes: Floats = nibbles[: int(np.prod(node.output(0).get_shape(), dtype=np.int64))].astype(np.float32)
        if kind == "i4":
            codes[codes > 7] -= 16
        return codes
    if kind == "bf16":
        return (memory.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if kind not in _PLAIN:
        raise ArtifactError(f"{purpose} is stored as {kind}, expected u2, u4, i4, bf16, {', '.join(_PLAIN)}")
    plain: Floats = memory.view(_PLAIN[kind]).astype(np.float32)
    return plain
