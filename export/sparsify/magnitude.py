"""Magnitude pruning (Han et al. 2015, arXiv:1506.02626): the smallest weights become zero, the others stay as they are."""

from __future__ import annotations

import numpy as np

from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.sparsify.method import Sparsifier, Target, mask_of
from edgeport.export.sparsify.pattern import Floats


def prepare(statistics: InputStatistics | None) -> Sparsifier:
    """See `method.Method`; the input is not looked at."""
    del statistics
    return _sparsify


def _sparsify(values: Floats, target: Target) -> Floats:
    return np.where(mask_of(np.abs(values), target), np.float32(0), values)
