"""rtn's search with errors weighted by what the calibration text sent through the layer: an importance matrix.

An error in a weight reaches the output multiplied by the input. llama.cpp's importance matrix is the mean square of each input
feature; where the products of neighbouring features are known too, they are used (`local_search`), and scales get better by them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.quantize import local_search, rtn
from edgeport.export.quantize.grid import Floats
from edgeport.export.quantize.solver import RowSolver, SolvedRows
from edgeport.scheme import TensorScheme

_FLOOR = np.float32(1e-3)
"""Least weight of a feature, as a share of the mean: a feature that was silent in calibration still counts for something."""


def prepare(statistics: InputStatistics | None) -> RowSolver:
    """See `solver.Solver`; without statistics it is rtn."""
    local = None if statistics is None else statistics.local_products()
    if local is not None:
        return lambda values, scheme: local_search.solve(values, scheme, local)
    weights = None if statistics is None else importance(statistics)
    return lambda values, scheme: rtn.solve_weighted(values, scheme, weights)


def search(statistics: InputStatistics | None) -> Callable[[Floats, TensorScheme], Floats]:
    """The scales alone, [rows, in_features / block] float32, as `prepare` finds them."""
    local = None if statistics is None else statistics.local_products()
    if local is not None:
        return lambda values, scheme: local_search.search_scales(values, scheme, local)
    weights = None if statistics is None else importance(statistics)
    return lambda values, scheme: rtn.search_scales(values, scheme, weights)


def solve(values: Floats, scheme: TensorScheme, statistics: InputStatistics | None) -> SolvedRows:
    """Quantize rows [rows, in_features]; see `solver.RowSolver`."""
    return prepare(statistics)(values, scheme)


def importance(statistics: InputStatistics) -> Floats:
    """Weights [in_features] with mean one, never zero; all ones for an input that is all zero."""
    mean = statistics.second_moment.mean()
    if not mean > 0:
        return np.ones_like(statistics.second_moment)
    return np.asarray(np.maximum(statistics.second_moment / mean, _FLOOR), dtype=np.float32)
