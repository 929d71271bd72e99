"""Make a solved weight better under its Hessian: scales refitted for the codes, then codes for the scales, in turns.

Both steps lower the same output error tr((W - V) H (W - V)^T). For given codes the scales of a row are a small least-squares
problem; for given scales each code in turn takes its best value with all others fixed (coordinate descent, as QuantEase does,
arXiv:2309.01885). Scales are rounded to the grid before they are judged, and a row keeps what it had unless it gets better.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeport.export.quantize.grid import Floats, round_to_grid
from edgeport.export.quantize.solver import SolvedRows
from edgeport.scheme import SCALE_SIGNIFICANT_BITS, TensorScheme

ROUNDS = 2
_BLOCK_COLUMNS = 128


def refine(values: Floats, solved: SolvedRows, scheme: TensorScheme, hessian: Floats) -> SolvedRows:
    """values [rows, in_features] and what a solver made of them; hessian [in_features, in_features], damped and symmetric."""
    codes = solved.codes.astype(np.float32)
    scales = solved.scales.astype(np.float32)
    error = _row_errors(values, codes, scales, hessian)
    for _ in range(ROUNDS):
        for step in (_refit_scales, _descend):
            new_codes, new_scales = step(values, codes, scales, scheme, hessian)
            new_error = _row_errors(values, new_codes, new_scales, hessian)
            better = new_error < error
            codes[better], scales[better], error[better] = (
                new_codes[better],
                new_scales[better],
                new_error[better],
            )
    return SolvedRows(codes.astype(np.int8), scales.astype(np.float16))


def _dequantized(codes: Floats, scales: Floats) -> Floats:
    rows, columns = codes.shape
    return (codes.reshape(rows, scales.shape[1], -1) * scales[:, :, None]).reshape(rows, columns)


def _row_errors(values: Floats, codes: Floats, scales: Floats, hessian: Floats) -> npt.NDArray[np.float64]:
    difference = values - _dequantized(codes, scales)
    return np.asarray(np.einsum("rk,rk->r", difference @ hessian, difference, dtype=np.float64))


def _refit_scales(
    values: Floats, codes: Floats, scales: Floats, scheme: TensorScheme, hessian: Floats
) -> tuple[Floats, Floats]:
    """Per row, the scales of least error for its codes: A s = b with A[g, h] = c_g^T H[g, h] c_h and b[g] = c_g^T H[g] w."""
    rows, groups = scales.shape
    blocks = codes.reshape(rows, groups, -1)
    normal = np.empty((rows, groups, groups), dtype=np.float64)
    right = np.empty((rows, groups), dtype=np.float64)
    for group in range(groups):
        part = slice(group * scheme.block, (group + 1) * scheme.block)
        seen = codes[:, part] @ hessian[part]  # [rows, in_features]
        normal[:, group] = np.einsum("rgk,rgk->rg", seen.reshape(blocks.shape), blocks)
        right[:, group] = np.einsum("rk,rk->r", seen, values)
    diagonal = np.einsum("rgg->rg", normal)
    diagonal += 1e-6 * diagonal.mean(axis=1, keepdims=True) + 1e-30
    fitted = np.linalg.solve(normal, right[:, :, None])[:, :, 0].astype(np.float32)
    # A block whose codes are all zero says nothing of its scale.
    fitted = np.where(np.isfinite(fitted) & (fitted != 0) & blocks.any(axis=2), fitted, scales)
    return codes, round_to_grid(fitted, SCALE_SIGNIFICANT_BITS[scheme.bits])


def _descend(
    values: Floats, codes: Floats, scales: Floats, scheme: TensorScheme, hessian: Floats
) -> tuple[Floats, Floats]:
    """One sweep over the columns; work arrays are [in_features, rows], so that a column is contiguous."""
    limit = 1 << (scheme.bits - 1)
    work = np.ascontiguousarray(codes.T)
    steps = np.repeat(np.ascontiguousarray(scales.T), scheme.block, axis=0)
    pull = hessian @ (values.T - work * steps)  # [in_features, rows]: minus half the gradient
    for start in range(0, len(work), _BLOCK_COLUMNS):
        part = slice(start, min(start + _BLOCK_COLUMNS, len(work)))
        before = work[part] * steps[part]
        local = hessian[part, part]
        for column in range(part.start, part.stop):
            wanted = work[column] + pull[column] / (hessian[column, column] * steps[column])
            code = np.clip(np.rint(wanted), -limit, limit - 1)
            change = (code - work[column]) * steps[column]
            pull[part] -= local[:, column - start, None] * change
            work[column] = code
        moved = work[part] * steps[part] - before
        inside = pull[part].copy()
        pull -= hessian[:, part] @ moved
        pull[part] = inside
    return np.ascontiguousarray(work.T), scales
