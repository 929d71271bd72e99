"""rtn's search of scales with the error a block of weights causes in the output, not in the weights.

The error d of the weights of one block changes the output by d^T H d, H the mean of x x^T over the block's input features.
llama.cpp's importance matrix keeps the diagonal of H; with the products of neighbours too, the search sees that errors of
correlated features add up or cancel. On the reference model the diagonal alone is no better than plain squares, the whole
block is worth a fifth of the KL divergence.
"""

from __future__ import annotations

import numpy as np

from edgeport.export.calibrate.statistics import LOCAL_BLOCK
from edgeport.export.quantize.grid import Floats, next_on_grid, round_to_grid
from edgeport.export.quantize.rtn import REFINEMENTS, SEARCH_SIGNS, SEARCH_STEPS
from edgeport.export.quantize.solver import SolvedRows
from edgeport.scheme import SCALE_SIGNIFICANT_BITS, TensorScheme

_FLOOR = np.float32(1e-3)
"""Added to the diagonal, as a share of its mean: a feature that was silent in calibration still counts for something."""


def solve(values: Floats, scheme: TensorScheme, local: Floats) -> SolvedRows:
    """Quantize rows [rows, in_features]; local: [in_features / LOCAL_BLOCK, LOCAL_BLOCK, LOCAL_BLOCK] products of inputs."""
    scales = search_scales(values, scheme, local)
    steps = np.repeat(scales, scheme.block, axis=1)
    limit = 1 << (scheme.bits - 1)
    codes = np.clip(np.rint(values / steps), -limit, limit - 1).astype(np.int8)
    return SolvedRows(codes, scales.astype(np.float16))


def search_scales(values: Floats, scheme: TensorScheme, local: Floats) -> Floats:
    """Scales [rows, in_features / block] float32 on the grid."""
    rows, columns = values.shape
    scales = np.empty((rows, columns // scheme.block), dtype=np.float32)
    for block in range(scales.shape[1]):
        part = slice(block * scheme.block, (block + 1) * scheme.block)
        hessian = _block_hessian(local, part)
        scales[:, block] = _search_block(np.ascontiguousarray(values[:, part]), hessian, scheme.bits)
    return scales


def _block_hessian(local: Floats, part: slice) -> Floats:
    """[block, block] with mean diagonal one; products across LOCAL_BLOCKs were not gathered and count as none."""
    size = part.stop - part.start
    matrix = np.zeros((size, size), dtype=np.float32)
    for start in range(0, size, LOCAL_BLOCK):
        inner = slice(start, start + LOCAL_BLOCK)
        matrix[inner, inner] = local[(part.start + start) // LOCAL_BLOCK]
    mean = float(np.diag(matrix).mean())
    if mean > 0:
        matrix /= np.float32(mean)
    matrix.reshape(-1)[:: size + 1] += _FLOOR if mean > 0 else 1
    return matrix


def _search_block(values: Floats, hessian: Floats, bits: int) -> Floats:
    """The scale of least d^T H d for each row of `values` [rows, block]."""
    limit, significant_bits = 1 << (bits - 1), SCALE_SIGNIFICANT_BITS[bits]
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=1)[:, None], axis=1)[:, 0]
    start = round_to_grid(largest / np.float32(-limit), significant_bits)
    best = start.copy()
    least = np.full(len(values), np.inf, dtype=np.float32)

    def consider(candidate: Floats) -> None:
        codes = _codes(values, candidate, limit)
        codes *= candidate[:, None]
        difference = np.subtract(values, codes, out=codes)
        error = np.einsum("rk,rk->r", difference @ hessian, difference)
        better = error < least
        best[better], least[better] = candidate[better], error[better]

    for steps in SEARCH_STEPS[bits]:
        candidate = start if steps == 0 else next_on_grid(start, steps, significant_bits)
        for sign in SEARCH_SIGNS[bits]:
            consider(np.float32(sign) * candidate)
    for _ in range(REFINEMENTS[bits]):
        codes = _codes(values, best, limit)
        seen = codes @ hessian
        energy = np.einsum("rk,rk->r", seen, codes)
        fitted = np.einsum("rk,rk->r", seen, values) / np.where(energy > 0, energy, 1)
        consider(np.where(fitted == 0, best, round_to_grid(fitted, significant_bits)))
    return best


def _codes(values: Floats, scale: Floats, limit: int) -> Floats:
    codes = np.rint(values * (np.float32(1) / scale)[:, None])
    return np.clip(codes, -limit, limit - 1, out=codes)
