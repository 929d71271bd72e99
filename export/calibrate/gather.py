"""Sums over the input vectors of a linear, batch by batch, and the hooks that see those vectors pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.errors import UnsupportedModel
from edgeport.export.calibrate.statistics import InputStatistics

if TYPE_CHECKING:
    import torch

_HESSIAN_PIECE = 512
"""Columns per product: only the upper triangle of x x^T is computed, in squares of this size."""


class Gatherer:
    """Running sums for one input of `in_features`; `hessian` says whether x x^T is wanted too."""

    def __init__(self, name: str, in_features: int, *, hessian: bool) -> None:
        import torch

        self.name, self.tokens = name, 0
        self._square = torch.zeros(in_features, dtype=torch.float64)
        self._magnitude = torch.zeros(in_features, dtype=torch.float64)
        self._product = torch.zeros((in_features, in_features)) if hessian else None

    def add(self, inputs: torch.Tensor) -> None:
        """inputs [..., in_features] float32. Raises UnsupportedModel when they are not finite."""
        vectors = inputs.reshape(-1, inputs.shape[-1])
        square = (vectors * vectors).sum(dim=0).double()
        if not bool(square.isfinite().all()):
            raise UnsupportedModel(
                f"activations before {self.name} are NaN or infinite",
                hint="the source model overflows in float32: its weights are damaged",
            )
        self.tokens += len(vectors)
        self._square += square
        self._magnitude += vectors.abs().sum(dim=0).double()
        if self._product is not None:
            for start in range(0, vectors.shape[1], _HESSIAN_PIECE):
                piece = slice(start, start + _HESSIAN_PIECE)
                self._product[piece, start:] += vectors[:, piece].T @ vectors[:, start:]

    def statistics(self) -> InputStatistics:
        """Averages over everything added; the sums are not to be used afterwards."""
        count = max(self.tokens, 1)
        hessian = None
        if self._product is not None:
            hessian = self._product.div_(count).numpy()
            _mirror(hessian)
        return InputStatistics(
            self.tokens,
            (self._square / count).float().numpy(),
            (self._magnitude / count).float().numpy(),
            hessian,
        )


def _mirror(matrix: np.ndarray[Any, Any]) -> None:
    """Fill the lower triangle from the upper one, in place and in pieces."""
    size = len(matrix)
    for start in range(0, size, _HESSIAN_PIECE):
        stop = min(start + _HESSIAN_PIECE, size)
        square = matrix[start:stop, start:stop]
        square[:] = np.triu(square) + np.triu(square, 1).T
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T


class _Seen(Exception):
    """Not an error: ends a forward pass that has shown what was wanted."""


class InputTap:
    """Feeds the inputs of some linears of a decoder layer to their gatherers while the layer runs.

    `last` names the module after whose input nothing more is wanted; the forward pass ends there.
    """

    def __init__(self, module: Any, gatherers: Mapping[str, Gatherer], *, last: str | None) -> None:
        self._module, self._gatherers, self._last = module, gatherers, last
        self._handles: list[Any] = []

    def __enter__(self) -> InputTap:
        for name, gatherer in self._gatherers.items():
            linear = self._module.get_submodule(name)
            self._handles.append(linear.register_forward_pre_hook(self._hook(gatherer, name == self._last)))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, gatherer: Gatherer, ends: bool) -> Any:
        def see(_module: Any, arguments: Sequence[Any]) -> None:
            gatherer.add(arguments[0])
            if ends:
                raise _Seen

        return see

    def run(self, forward: Any) -> None:
        """Call `forward()` up to the last tapped module."""
        try:
            forward()
        except _Seen:
            return
