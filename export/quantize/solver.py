"""What a solver is: one weight and what its input looked like in, codes and scales out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.quantize.grid import Floats
from edgeport.scheme import TensorScheme


@dataclass(frozen=True, slots=True)
class SolvedRows:
    """codes: [rows, in_features] int8; scales: [rows, in_features / block] float16, on the grid."""

    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float16]

    def dequantize(self) -> Floats:
        """[rows, in_features] float32."""
        rows, columns = self.codes.shape
        blocks = self.codes.reshape(rows, self.scales.shape[1], -1).astype(np.float32)
        blocks *= self.scales.astype(np.float32)[:, :, None]
        return blocks.reshape(rows, columns)


class RowSolver(Protocol):
    """Codes and scales of some rows of a weight."""

    def __call__(self, values: Floats, scheme: TensorScheme) -> SolvedRows:
        """Quantize rows [rows, in_features]; in_features is divisible by the block, values are finite.

        Rows are independent of each other, so callers may cut a weight into pieces of rows.
        """
        ...


class Solver(Protocol):
    """`prepare` of a solver's module: what can be worked out from the input alone is worked out once for all its weights."""

    def __call__(self, statistics: InputStatistics | None) -> RowSolver:
        """`statistics` is None for a tensor without an input to speak of (an embedding), and for solvers that need none."""
        ...
