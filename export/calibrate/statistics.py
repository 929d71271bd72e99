"""What the calibration pass knows of the input of a linear: everything that any solver or pruning score wants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

LOCAL_BLOCK = 32
"""Neighbouring input features whose products are always gathered: those of the smallest quantization block."""


@dataclass(frozen=True, slots=True)
class InputStatistics:
    """Averages over `tokens` input vectors x of one linear; linears that share an input (q, k and v) share these.

    second_moment: mean of x**2, [in_features]: llama.cpp's imatrix, and the diagonal of the Hessian.
    mean_magnitude: mean of |x|, [in_features]: AWQ's channel magnitude.
    local: the diagonal blocks of the Hessian, [in_features / LOCAL_BLOCK, LOCAL_BLOCK, LOCAL_BLOCK], or None where
    LOCAL_BLOCK does not divide in_features; use `local_products`.
    hessian: mean of x x^T, [in_features, in_features] float32, or None where no method asked for it.
    cross: mean of f x^T, where f is what the input would be without any quantization before it, or None. With it a solver
    can aim at what the float model computes instead of at what the float weight makes of a disturbed input.
    """

    tokens: int
    second_moment: Floats
    mean_magnitude: Floats
    hessian: Floats | None = None
    cross: Floats | None = None
    local: Floats | None = None

    def local_products(self) -> Floats | None:
        """`local`, cut from the Hessian where it was not gathered by itself."""
        if self.local is not None or self.hessian is None or len(self.hessian) % LOCAL_BLOCK:
            return self.local
        count = len(self.hessian) // LOCAL_BLOCK
        blocks = self.hessian.reshape(count, LOCAL_BLOCK, count, LOCAL_BLOCK)
        cut: Floats = blocks[np.arange(count), :, np.arange(count)]
        return cut
