"""Wanda (Sun et al. 2023, arXiv:2306.11695): weights are compared within an output row by |weight| times the norm of the
input feature they multiply; the others stay as they are."""

from __future__ import annotations

import numpy as np

from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.sparsify.method import Sparsifier, Target, mask_of
from edgeport.export.sparsify.pattern import Floats


def prepare(statistics: InputStatistics | None) -> Sparsifier:
    """See `method.Method`. `statistics` must be there."""
    assert statistics is not None
    # The root of the mean square: the norm but for a factor that all features share.
    norm = np.sqrt(statistics.second_moment)

    def sparsify(values: Floats, target: Target) -> Floats:
        return np.where(mask_of(np.abs(values) * norm, target), np.float32(0), values)

    return sparsify
