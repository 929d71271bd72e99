"""SparseGPT (Frantar and Alistarh 2023, arXiv:2301.00774): columns are decided from left to right; a weight that goes is made
good by the columns right of it, as the inverse Hessian tells (optimal brain surgeon).

Weights go where w**2 / [H^-1]_jj is least, H^-1 being that of the columns not yet decided: all rows of 128 columns compete,
or the columns of a group. A column that no calibration token excited costs nothing and goes first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.quantize.gptq import ErrorFeedback, error_feedback
from edgeport.export.sparsify.method import Sparsifier, Target
from edgeport.export.sparsify.pattern import Floats, Mask, lowest_in_groups, lowest_of_all

BLOCK_COLUMNS = 128
"""Divisible by every pattern's group."""


def prepare(statistics: InputStatistics | None) -> Sparsifier:
    """See `method.Method`. `statistics` must have a Hessian.

    Raises UnsupportedModel for a Hessian that is not finite, or that no damping makes positive definite.
    """
    assert statistics is not None and statistics.hessian is not None
    hessian = statistics.hessian
    # Columns stay in their places: groups are neighbours.
    feedback = error_feedback(hessian, np.arange(len(hessian), dtype=np.int64))
    dead = np.diag(hessian) <= 0

    def sparsify(values: Floats, target: Target) -> Floats:
        return _Update(values, feedback, dead).run(target)

    return sparsify


class _Update:
    """One weight at work. `work`: [in_features, out_features], so that one column of the weight is contiguous."""

    def __init__(self, values: Floats, feedback: ErrorFeedback, dead: Mask) -> None:
        self._work = np.ascontiguousarray(values.T)
        self._upper = feedback.upper
        self._cost: Floats = np.reciprocal(np.square(feedback.diagonal))
        self._cost[dead] = 0.0

    def run(self, target: Target) -> Floats:
        work, columns = self._work, len(self._work)
        gone = 0
        for start in range(0, columns, BLOCK_COLUMNS):
            stop = min(start + BLOCK_COLUMNS, columns)
            chosen = None
            if not target.pattern.group:
                # Counted from the left, so that rounding of one block is made good by the next.
                count = round(target.sparsity * stop * work.shape[1]) - gone
                chosen = lowest_of_all(self._scores(start, stop), count)
                gone += count
            errors = self._block(start, stop, chosen, target)
            work[stop:] -= self._upper[start:stop, stop:].T @ errors
        return np.ascontiguousarray(work.T)

    def _block(self, start: int, stop: int, chosen: Mask | None, target: Target) -> npt.NDArray[np.float32]:
        """Zero the chosen entries of some columns; returns what each column lost, for the columns after the block.

        chosen: [columns of the block, out_features], or None where groups are chosen when their turn comes.
        """
        work, group = self._work, target.pattern.group
        errors = np.zeros((stop - start, work.shape[1]), dtype=np.float32)
        mask = np.zeros(errors.shape, dtype=np.bool_) if chosen is None else chosen
        for column in range(start, stop):
            if chosen is None and column % group == 0:
                scores = self._scores(column, column + group)
                mask[column - start : column - start + group] = lowest_in_groups(scores.T, target.pattern).T
            going = mask[column - start]
            errors[column - start][going] = work[column][going]
            work[column][going] = 0.0
            work[column + 1 : stop] -= self._upper[column, column + 1 : stop, None] * errors[column - start]
        return errors

    def _scores(self, start: int, stop: int) -> Floats:
        """[columns, out_features]: what zeroing costs, with the best answer of all columns to the right."""
        scores: Floats = self._work[start:stop] ** 2 * self._cost[start:stop, None]
        return scores
