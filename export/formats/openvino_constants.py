"""Small constants and elements of shapes, as nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

# openvino is not typed: nodes are whatever its opset returns.
Node = Any

LAST = 2**63 - 1
"""The end of a Slice that goes to the end."""


def scalar(value: int) -> Node:
    return ops.constant(value, dtype=ov.Type.i64)


def vector(*values: int) -> Node:
    return ops.constant(list(values), dtype=ov.Type.i64)


def factor(value: float, rank: int) -> Node:
    """A float32 constant of `rank` dimensions, each 1 long: fusions compare ranks."""
    return ops.constant(np.full((1,) * rank, value, np.float32))


def scaled(node: Node, value: float) -> Node:
    """node * value; the node itself for 1."""
    return node if value == 1.0 else ops.multiply(node, factor(value, rank(node)))


def rank(node: Node) -> int:
    return len(node.get_output_partial_shape(0))


def element(shape: Node, index: int) -> Node:
    """One element of a shape as a vector of one."""
    return ops.gather(shape, vector(index), scalar(0))


def reshape(node: Node, *sizes: int) -> Node:
    """0 keeps the size at that place, -1 takes what is left."""
    return ops.reshape(node, vector(*sizes), special_zero=True)
