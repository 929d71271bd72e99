"""rtn's search with each squared error weighted by the mean square of its input feature.

An error in a weight reaches the output multiplied by the input, so E[x**2] is the diagonal of the layer's Hessian and the
weighted error is the output error when input features are uncorrelated. llama.cpp calls these weights the importance matrix.
"""

from __future__ import annotations

import numpy as np

from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.quantize import rtn
from edgeport.export.quantize.grid import Floats
from edgeport.export.quantize.solver import RowSolver, SolvedRows
from edgeport.scheme import TensorScheme

_FLOOR = np.float32(1e-3)
"""Least weight of a feature, as a share of the mean: a feature that was silent in calibration still counts for something."""


def prepare(statistics: InputStatistics | None) -> RowSolver:
    """See `solver.Solver`; without statistics it is rtn."""
    weights = None if statistics is None else importance(statistics)
    return lambda values, scheme: rtn.solve_weighted(values, scheme, weights)


def solve(values: Floats, scheme: TensorScheme, statistics: InputStatistics | None) -> SolvedRows:
    """Quantize rows [rows, in_features]; see `solver.RowSolver`."""
    return prepare(statistics)(values, scheme)


def importance(statistics: InputStatistics) -> Floats:
    """Weights [in_features] with mean one, never zero; all ones for an input that is all zero."""
    mean = statistics.second_moment.mean()
    if not mean > 0:
        return np.ones_like(statistics.second_moment)
    return np.asarray(np.maximum(statistics.second_moment / mean, _FLOOR), dtype=np.float32)
