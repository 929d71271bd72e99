"""RMSNorm in the form that RMSFusion recognises: x * (1 / sqrt(mean(x ** 2) + eps)) * weight (arXiv:1910.07467)."""

from __future__ import annotations

from typing import Any

from openvino import opset13 as ops

from edgeport.export.formats.openvino_constants import factor, rank, vector
from edgeport.export.formats.openvino_weights import WeightNodes

Node = Any


class Norms:
    def __init__(self, weights: WeightNodes, eps: float) -> None:
        self._weights = weights
        self._eps = eps

    def __call__(self, hidden: Node, name: str, width: int) -> Node:
        """hidden [..., width] over its last axis, times the tensor `name` [width]."""
        dimensions = rank(hidden)
        squares = ops.power(hidden, factor(2.0, dimensions))
        mean = ops.reduce_mean(squares, vector(-1), keep_dims=True)
        root = ops.sqrt(ops.add(mean, factor(self._eps, dimensions)))
        normal = ops.multiply(hidden, ops.divide(factor(1.0, dimensions), root))
        shape = (1,) * (dimensions - 1) + (width,)
        return ops.multiply(normal, self._weights.vector(name, shape))
