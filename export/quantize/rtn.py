"""Round to nearest with a searched, signed scale per block: the data-free solver of the portable scheme.

The value of largest magnitude maps to the lowest code (scale = max / -8), which is worth a fifth of the squared error
against a symmetric -7..7 grid, because the lowest code has no positive twin. Around that scale every grid value within
about a fifth is tried, then one least-squares step `sum(w * q) / sum(q * q)` refines the best; each candidate is rounded to
the grid of scales *before* its codes and its error are computed, so that what is scored is what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.quantize.grid import Floats, next_on_grid, round_to_grid
from edgeport.export.quantize.solver import RowSolver, SolvedRows
from edgeport.scheme import SCALE_SIGNIFICANT_BITS, TensorScheme

# Chunks this large keep the values and two work arrays inside a core's level-2 cache.
_CHUNK_ELEMENTS = 1 << 16
# Grid steps tried around max / -2**(bits-1). With 7 significant bits a step is 0.8 to 1.6 % and 64 steps are a factor of two;
# INT8 only has to mend the rounding of the scale. Four codes do best far inside the largest value, which they then clip.
SEARCH_STEPS = {2: (-80, -64, -48, -32, -16, 0), 4: (-16, -12, -9, -6, -4, -2, 0, 2, 4, 7, 10), 8: (0, 1)}
# Of INT2's levels two of three lie on one side of zero: which side is worth trying both.
SEARCH_SIGNS = {2: (1, -1), 4: (1,), 8: (1,)}
REFINEMENTS = {2: 2, 4: 2, 8: 0}


def prepare(statistics: InputStatistics | None) -> RowSolver:
    """See `solver.Solver`; uses no statistics."""
    del statistics
    return solve


def solve(values: Floats, scheme: TensorScheme, statistics: InputStatistics | None = None) -> SolvedRows:
    """Quantize rows [rows, in_features]; see `solver.RowSolver`. Uses no statistics."""
    del statistics
    return solve_weighted(values, scheme, None)


def solve_weighted(values: Floats, scheme: TensorScheme, importance: Floats | None) -> SolvedRows:
    """The same with squared errors weighted by `importance` [in_features] (None: all alike)."""
    rows, columns = values.shape
    blocks = values.reshape(-1, scheme.block)
    codes = np.empty(blocks.shape, dtype=np.int8)
    scales = np.empty(blocks.shape[0], dtype=np.float16)
    for start, stop, chunk, weight in _chunks(blocks, importance):
        scale = search_scale(chunk, scheme.bits, weight)
        scales[start:stop] = scale
        codes[start:stop] = round_codes(chunk, scale, scheme.bits).T
    return SolvedRows(codes.reshape(rows, columns), scales.reshape(rows, columns // scheme.block))


def search_scales(values: Floats, scheme: TensorScheme, importance: Floats | None) -> Floats:
    """The scales alone, [rows, in_features / block] float32 on the grid."""
    blocks = values.reshape(-1, scheme.block)
    scales = np.empty(blocks.shape[0], dtype=np.float32)
    for start, stop, chunk, weight in _chunks(blocks, importance):
        scales[start:stop] = search_scale(chunk, scheme.bits, weight)
    return scales.reshape(values.shape[0], -1)


def _chunks(blocks: Floats, importance: Floats | None) -> Iterator[tuple[int, int, Floats, Floats | None]]:
    """(first, last, values [block, blocks], weights of the same shape) over blocks [all blocks, block]."""
    count, block = blocks.shape
    step = max(_CHUNK_ELEMENTS // block, 1)
    for start in range(0, count, step):
        stop = min(start + step, count)
        # [block, blocks]: with the block down the columns every operation runs along contiguous memory.
        chunk = np.ascontiguousarray(blocks[start:stop].T)
        weight = None
        if importance is not None:
            groups = importance.reshape(-1, block)
            weight = np.ascontiguousarray(groups[np.arange(start, stop) % len(groups)].T)
        yield start, stop, chunk, weight


def search_scale(chunk: Floats, bits: int, weight: Floats | None = None) -> Floats:
    """The scale of least (weighted) squared error for each column of `chunk` [block, blocks]; returns [blocks] on the grid."""
    lowest, significant_bits = np.float32(1 << (bits - 1)), SCALE_SIGNIFICANT_BITS[bits]
    largest = np.take_along_axis(chunk, np.abs(chunk).argmax(axis=0)[None], axis=0)[0]
    start = round_to_grid(largest / -lowest, significant_bits)
    search = _Search(chunk, weight, bits, start)
    for steps in SEARCH_STEPS[bits]:
        candidate = start if steps == 0 else next_on_grid(start, steps, significant_bits)
        for sign in SEARCH_SIGNS[bits]:
            search.consider(candidate if sign == 1 else -candidate)
    for _ in range(REFINEMENTS[bits]):
        codes = round_codes(chunk, search.scale, bits)
        weighted = codes if weight is None else codes * weight
        energy = np.einsum("ij,ij->j", codes, weighted)
        fitted = np.einsum("ij,ij->j", chunk, weighted) / np.where(energy > 0, energy, 1)
        search.consider(np.where(fitted == 0, search.scale, round_to_grid(fitted, significant_bits)))
    return search.scale


def round_codes(chunk: Floats, scale: Floats, bits: int) -> Floats:
    """Nearest codes as floats, clipped to -2**(bits-1) .. 2**(bits-1) - 1."""
    codes = np.rint(chunk * (np.float32(1) / scale))
    limit = 1 << (bits - 1)
    return np.clip(codes, -limit, limit - 1, out=codes)


class _Search:
    """The best scale so far of each column; work arrays are kept, because making them costs as much as filling them."""

    def __init__(self, chunk: Floats, weight: Floats | None, bits: int, start: Floats) -> None:
        self.scale = start.copy()
        self._chunk, self._weight, self._limit = chunk, weight, 1 << (bits - 1)
        self._error = np.full(start.shape, np.inf, dtype=np.float32)
        self._scaled, self._codes = np.empty_like(chunk), np.empty_like(chunk)

    def consider(self, candidate: Floats) -> None:
        """Score `candidate` [blocks] and keep it where it has less squared error."""
        scaled, codes = self._scaled, self._codes
        np.multiply(self._chunk, np.float32(1) / candidate, out=scaled)
        np.rint(scaled, out=codes)
        np.clip(codes, -self._limit, self._limit - 1, out=codes)
        np.subtract(scaled, codes, out=scaled)
        np.multiply(scaled, scaled, out=scaled)
        if self._weight is not None:
            np.multiply(scaled, self._weight, out=scaled)
        error = np.add.reduce(scaled, axis=0) * candidate * candidate
        better = error < self._error
        np.copyto(self.scale, candidate, where=better)
        np.copyto(self._error, error, where=better)
