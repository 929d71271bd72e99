"""Sums over the input vectors of a linear, batch by batch, and the hooks that see those vectors pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.errors import UnsupportedModel
from edgeport.export.calibrate.statistics import LOCAL_BLOCK, InputStatistics

if TYPE_CHECKING:
    import torch

_HESSIAN_PIECE = 512
"""Columns per product: only the upper triangle of x x^T is computed, in squares of this size."""


class Gatherer:
    """Running sums for one input of `in_features`; `hessian` and `cross` say whether the products are wanted too."""

    def __init__(self, name: str, in_features: int, *, hessian: bool, cross: bool = False) -> None:
        import torch

        self.name, self.tokens = name, 0
        self._square = torch.zeros(in_features, dtype=torch.float64)
        self._magnitude = torch.zeros(in_features, dtype=torch.float64)
        # Cut from the Hessian where there is one.
        wanted = not hessian and in_features % LOCAL_BLOCK == 0
        local = (in_features // LOCAL_BLOCK, LOCAL_BLOCK, LOCAL_BLOCK)
        self._local = torch.zeros(local) if wanted else None
        self._product = torch.zeros((in_features, in_features)) if hessian else None
        self._cross = torch.zeros((in_features, in_features)) if cross else None

    def add(self, inputs: torch.Tensor, undisturbed: torch.Tensor | None = None) -> None:
        """inputs [..., in_features] float32, and what they would be without quantization where the cross product is
        wanted. Raises UnsupportedModel when they are not finite."""
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
        if self._local is not None:
            blocks = vectors.reshape(len(vectors), -1, LOCAL_BLOCK).transpose(
                0, 1
            )  # [blocks, tokens, LOCAL_BLOCK]
            self._local += blocks.transpose(1, 2) @ blocks
        if self._product is not None:
            for start in range(0, vectors.shape[1], _HESSIAN_PIECE):
                piece = slice(start, start + _HESSIAN_PIECE)
                self._product[piece, start:] += vectors[:, piece].T @ vectors[:, start:]
        if self._cross is not None and undisturbed is not None:
            self._cross += undisturbed.reshape(vectors.shape).T @ vectors

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
            None if self._cross is None else self._cross.div_(count).numpy(),
            None if self._local is None else self._local.div_(count).numpy(),
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
    """Keeps the inputs of some linears of a decoder layer while the layer runs.

    The last of `modules` is the one after whose input nothing more is wanted; the forward pass ends there.
    """

    def __init__(self, module: Any, modules: Sequence[str]) -> None:
        self._module, self._modules = module, modules
        self._seen: dict[str, torch.Tensor] = {}

    def inputs(self, forward: Callable[[], object]) -> dict[str, torch.Tensor]:
        """What each tapped linear got in one call of `forward`, [batch, n_ctx, in_features] by module name."""
        self._seen = {}
        handles = [
            self._module.get_submodule(name).register_forward_pre_hook(self._hook(name))
            for name in self._modules
        ]
        try:
            forward()
        except _Seen:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return self._seen

    def _hook(self, name: str) -> Any:
        def see(_module: Any, arguments: Sequence[Any]) -> None:
            self._seen[name] = arguments[0]
            if name == self._modules[-1]:
                raise _Seen

        return see
