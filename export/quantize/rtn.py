"""Round to nearest with a searched, signed scale per block: the data-free solver of the portable scheme.

The value of largest magnitude maps to the lowest code (scale = max / -8), which is worth a fifth of the squared error
against a symmetric -7..7 grid, because the lowest code has no positive twin. Around that scale every grid value within
about a fifth is tried, then one least-squares step `sum(w * q) / sum(q * q)` refines the best; each candidate is rounded to
the grid of scales *before* its codes and its error are computed, so that what is scored is what is stored.
"""

from __future__ import annotations

import numpy as np

from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.quantize.grid import Floats, next_on_grid, round_to_grid
from edgeport.export.quantize.solver import SolvedRows
from edgeport.scheme import SCALE_SIGNIFICANT_BITS, TensorScheme

# Chunks this large keep the values and two work arrays inside a core's level-2 cache.
_CHUNK_ELEMENTS = 1 << 16
# Grid steps tried around max / -2**(bits-1). An INT4 step is 0.8 to 1.6 %; INT8 only has to mend the rounding of the scale.
_STEPS = {4: (-16, -12, -9, -6, -4, -2, 0, 2, 4, 7, 10), 8: (0, 1)}
_REFINEMENTS = {4: 2, 8: 0}


def solve(values: Floats, scheme: TensorScheme, statistics: InputStatistics | None = None) -> SolvedRows:
    """Quantize rows [rows, in_features]; see `solver.Solver`. Uses no statistics."""
    del statistics
    rows, columns = values.shape
    blocks = values.reshape(-1, scheme.block)
    codes = np.empty(blocks.shape, dtype=np.int8)
    scales = np.empty(blocks.shape[0], dtype=np.float16)
    step = max(_CHUNK_ELEMENTS // scheme.block, 1)
    for start in range(0, blocks.shape[0], step):
        stop = start + step
        # [block, blocks]: with the block down the columns every operation runs along contiguous memory.
        chunk = np.ascontiguousarray(blocks[start:stop].T)
        scale = search_scale(chunk, scheme.bits)
        scales[start:stop] = scale
        codes[start:stop] = round_codes(chunk, scale, scheme.bits).T
    return SolvedRows(codes.reshape(rows, columns), scales.reshape(rows, columns // scheme.block))


def search_scale(chunk: Floats, bits: int) -> Floats:
    """The scale of least squared error for each column of `chunk` [block, blocks]; returns [blocks] on the grid."""
    lowest, significant_bits = np.float32(1 << (bits - 1)), SCALE_SIGNIFICANT_BITS[bits]
    largest = np.take_along_axis(chunk, np.abs(chunk).argmax(axis=0)[None], axis=0)[0]
    start = round_to_grid(largest / -lowest, significant_bits)
    best = start.copy()
    best_error = np.full(best.shape, np.inf, dtype=np.float32)
    work = np.empty_like(chunk), np.empty_like(chunk)
    for steps in _STEPS[bits]:
        candidate = start if steps == 0 else next_on_grid(start, steps, significant_bits)
        _keep_better(chunk, candidate, (best, best_error), bits, work)
    for _ in range(_REFINEMENTS[bits]):
        codes = round_codes(chunk, best, bits)
        energy = np.einsum("ij,ij->j", codes, codes)
        fitted = np.einsum("ij,ij->j", chunk, codes) / np.maximum(energy, 1)
        candidate = np.where(fitted == 0, best, round_to_grid(fitted, significant_bits))
        _keep_better(chunk, candidate, (best, best_error), bits, work)
    return best


def round_codes(chunk: Floats, scale: Floats, bits: int) -> Floats:
    """Nearest codes as floats, clipped to -2**(bits-1) .. 2**(bits-1) - 1."""
    codes = np.rint(chunk * (np.float32(1) / scale))
    limit = 1 << (bits - 1)
    return np.clip(codes, -limit, limit - 1, out=codes)


def _keep_better(
    chunk: Floats, candidate: Floats, best: tuple[Floats, Floats], bits: int, work: tuple[Floats, Floats]
) -> None:
    """Score `candidate` [blocks] and replace the scales in `best` (scale, error) where it has less squared error."""
    scaled, codes = work
    limit = 1 << (bits - 1)
    np.multiply(chunk, np.float32(1) / candidate, out=scaled)
    np.rint(scaled, out=codes)
    np.clip(codes, -limit, limit - 1, out=codes)
    np.subtract(scaled, codes, out=scaled)
    np.multiply(scaled, scaled, out=scaled)
    error = np.add.reduce(scaled, axis=0) * candidate * candidate
    better = error < best[1]
    np.copyto(best[0], candidate, where=better)
    np.copyto(best[1], error, where=better)
