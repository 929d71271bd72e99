"""GPTQ (arXiv:2210.17323) on the portable grid: columns are rounded one by one, and what each rounding did to the output is
made good by the columns not yet rounded.

Groups are static: the scales of all blocks are searched before the first column, so columns can be taken in the order of
their importance (largest diagonal of the Hessian first) without an index that no container could hold. A Hessian that is
not positive definite gets more damping until it is; a column that no calibration token excited is rounded to nearest.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeport.errors import UnsupportedModel
from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.quantize import imatrix
from edgeport.export.quantize.grid import Floats
from edgeport.export.quantize.refine import refine
from edgeport.export.quantize.solver import RowSolver, SolvedRows
from edgeport.lazy import missing_extra
from edgeport.scheme import TensorScheme

DAMPING = 0.01
"""Of the mean diagonal, as in the paper; times ten at each retry."""
RETRIES = 5
_BLOCK_COLUMNS = 128
_PIECE_ROWS = 1024
"""Rows per task: columns of the transposed work array, and small enough to stay in a core's cache block by block."""


@dataclass(frozen=True, slots=True)
class ErrorFeedback:
    """order: the column taken at each step, [in_features]; upper: Cholesky factor U of the inverse Hessian in that
    order, H^-1 = U^T U, divided row by row by its diagonal; diagonal: what it was divided by, [in_features] by step;
    damping: share of the mean diagonal that it took."""

    order: npt.NDArray[np.int64]
    upper: Floats
    diagonal: Floats
    damping: float


def prepare(statistics: InputStatistics | None) -> RowSolver:
    """See `solver.Solver`. Without a Hessian it is rtn.

    Raises UnsupportedModel for a Hessian that is not finite, or that no damping makes positive definite.
    """
    return _prepare(statistics)


def prepare_weighted(statistics: InputStatistics | None) -> RowSolver:
    """The same with the scales searched under imatrix's weights."""
    return _prepare(statistics, weighted=True)


def prepare_refined(statistics: InputStatistics | None) -> RowSolver:
    """The same as `prepare`, and then scales and codes made better in turns (`edgeport.export.quantize.refine`)."""
    return _prepare(statistics, refined=True)


def damped_hessian(hessian: Floats, damping: float) -> Floats:
    """With `damping` times its mean diagonal added to the diagonal; never zero."""
    damped = hessian.copy()
    mean = float(np.diag(hessian).mean())
    damped.reshape(-1)[:: len(damped) + 1] += damping * mean if mean > 0 else 1.0
    return damped


def _prepare(
    statistics: InputStatistics | None, *, weighted: bool = False, refined: bool = False
) -> RowSolver:
    if statistics is None or statistics.hessian is None:
        return imatrix.prepare(statistics if weighted else None)
    search = imatrix.search(statistics if weighted else None)
    feedback = error_feedback(statistics.hessian)
    correction = _correction(statistics, feedback.damping)
    damped = damped_hessian(statistics.hessian, feedback.damping) if refined else None

    def solve(values: Floats, scheme: TensorScheme) -> SolvedRows:
        if correction is not None:
            values = values + values @ correction
        scales = search(values, scheme)
        codes = round_with_feedback(values, scales, scheme, feedback)
        solved = SolvedRows(codes, scales.astype(np.float16))
        return solved if damped is None else refine(values, solved, scheme, damped)

    return solve


def _correction(statistics: InputStatistics, damping: float) -> Floats | None:
    if statistics.cross is None or statistics.hessian is None:
        return None
    return target_correction(statistics.hessian, statistics.cross, damping)


def error_feedback(hessian: Floats, order: npt.NDArray[np.int64] | None = None) -> ErrorFeedback:
    """Factor a Hessian [in_features, in_features], with as little damping as it takes.

    order: columns in the order they will be taken; by default the largest diagonal first.
    """
    with missing_extra("eval", purpose="factoring Hessians"):
        import torch
    if not np.isfinite(hessian).all():
        raise UnsupportedModel(
            "the calibration activations hold NaN or infinite values",
            hint="check the source model; --solver rtn needs no calibration",
        )
    diagonal = np.diag(hessian).astype(np.float64)
    dead = diagonal <= 0
    mean = float(diagonal[~dead].mean()) if not dead.all() else 1.0
    if order is None:
        order = np.argsort(-diagonal, kind="stable")
    # Reversed, because H = R R^T with R upper triangular is the ordinary Cholesky factor of H turned upside down.
    matrix = torch.from_numpy(hessian[np.ix_(order[::-1], order[::-1])].astype(np.float64))
    zero = torch.from_numpy(dead[order[::-1]].copy())
    damping = DAMPING
    for _ in range(RETRIES):
        damped = matrix.clone()
        damped.diagonal().add_(damping * mean)
        damped.diagonal()[zero] = mean
        lower, info = torch.linalg.cholesky_ex(damped)
        if int(info) == 0 and bool(torch.isfinite(lower).all()):
            upper = torch.linalg.solve_triangular(
                lower.flip(0, 1), torch.eye(len(diagonal), dtype=torch.float64), upper=True
            )
            steps = upper.diagonal().clone()
            upper /= steps[:, None]
            return ErrorFeedback(
                order, upper.to(torch.float32).numpy(), steps.to(torch.float32).numpy(), damping
            )
        damping *= 10
    raise UnsupportedModel(
        f"a calibration Hessian of {len(diagonal)} features is not positive definite even with "
        f"{damping / 10:g} times its mean diagonal added",
        hint="calibrate on more text with --calibration-tokens, or use --solver imatrix",
    )


def target_correction(hessian: Floats, cross: Floats, damping: float) -> Floats:
    """M of the weight W + W M that does on the disturbed input x what W does on the undisturbed input f.

    The least-squares weight for E|W f - V x|^2 is V = W E[f x^T] E[x x^T]^-1 (asymmetric calibration, arXiv:2504.02692), so
    M = (E[f x^T] - H) H^-1; rounding V under H then minimises the same error. The damping pulls V back to W.
    """
    import torch

    matrix = torch.from_numpy(hessian.astype(np.float64))
    matrix.diagonal().add_(max(damping * float(matrix.diagonal().mean()), 1e-30))
    difference = torch.from_numpy((cross - hessian).astype(np.float64))
    solved: Floats = torch.linalg.solve(matrix, difference.T).T.to(torch.float32).numpy()
    return solved


def round_with_feedback(
    values: Floats, scales: Floats, scheme: TensorScheme, feedback: ErrorFeedback
) -> npt.NDArray[np.int8]:
    """Codes [rows, in_features] of `values` under given scales [rows, in_features / block]."""
    import torch

    rows, threads = values.shape[0], torch.get_num_threads()
    codes = np.empty(values.shape, dtype=np.int8)

    def piece(start: int) -> None:
        part = slice(start, start + _PIECE_ROWS)
        codes[part] = _round_rows(values[part], scales[part], scheme, feedback)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(piece, range(0, rows, _PIECE_ROWS)))
    return codes


def _round_rows(
    values: Floats, scales: Floats, scheme: TensorScheme, feedback: ErrorFeedback
) -> npt.NDArray[np.int8]:
    order, upper = feedback.order, feedback.upper
    limit = 1 << (scheme.bits - 1)
    # work: [in_features, rows] in the order of the steps, so that one column of the weight is one contiguous row.
    work = np.ascontiguousarray(values.T[order])
    steps = np.ascontiguousarray(scales.T)  # [in_features / block, rows]
    codes = np.empty(work.shape, dtype=np.int8)
    for start in range(0, len(order), _BLOCK_COLUMNS):
        stop = min(start + _BLOCK_COLUMNS, len(order))
        errors = np.empty((stop - start, work.shape[1]), dtype=np.float32)
        for column in range(start, stop):
            scale = steps[order[column] // scheme.block]
            code = np.clip(np.rint(work[column] / scale), -limit, limit - 1)
            codes[column] = code
            error = np.subtract(work[column], code * scale, out=errors[column - start])
            work[column + 1 : stop] -= upper[column, column + 1 : stop, None] * error
        work[stop:] -= upper[start:stop, stop:].T @ errors
    result = np.empty(codes.shape, dtype=np.int8)
    result[order] = codes
    return result.T
