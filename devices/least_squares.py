"""Least squares with coefficients that are not negative, for a handful of unknowns. Pure Python: a device needs no numpy.

Every set of coefficients that may be above zero is tried; of those that come out so, the one with the least residual wins,
which is the solution of the constrained problem (Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 23).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

SINGULAR = 1e-9
"""A pivot below this, of columns scaled to length one, means that two unknowns cannot be told apart."""


def solve_nonnegative(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """The x >= 0 that makes `rows` x nearest to `values` in relative terms; values are above zero.

    Raises ValueError when the columns depend on each other: other values of x would be as good.
    """
    weighted = [[cell / value for cell in row] for row, value in zip(rows, values, strict=True)]
    ones = [1.0] * len(values)
    lengths = [math.hypot(*(row[at] for row in weighted)) for at in range(len(rows[0]))]
    if min(lengths) == 0 or len(rows) < len(lengths):
        raise ValueError("fewer observations than unknowns")
    scaled = [[cell / length for cell, length in zip(row, lengths, strict=True)] for row in weighted]
    _unconstrained(scaled, ones)  # refuse before a subset of the columns seems to have an answer
    best, best_error = [0.0] * len(lengths), math.inf
    for count in range(1, len(lengths) + 1):
        for chosen in combinations(range(len(lengths)), count):
            part = _unconstrained([[row[at] for at in chosen] for row in scaled], ones)
            if min(part) < 0:
                continue
            found = [0.0] * len(lengths)
            for at, coefficient in zip(chosen, part, strict=True):
                found[at] = coefficient
            error = math.fsum((predicted - 1) ** 2 for predicted in _products(scaled, found))
            if error < best_error:
                best, best_error = found, error
    return [coefficient / length for coefficient, length in zip(best, lengths, strict=True)]


def _products(rows: Sequence[Sequence[float]], x: Sequence[float]) -> list[float]:
    return [math.fsum(cell * each for cell, each in zip(row, x, strict=True)) for row in rows]


def _unconstrained(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Modified Gram-Schmidt, which keeps twice the digits of the normal equations."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    target, width = list(values), len(columns)
    upper = [[0.0] * width for _ in range(width)]
    projected = [0.0] * width
    for at in range(width):
        length = math.hypot(*columns[at])
        if length < SINGULAR:
            raise ValueError("the unknowns cannot be told apart")
        upper[at][at] = length
        unit = [cell / length for cell in columns[at]]
        for later in range(at + 1, width):
            upper[at][later] = _dot(unit, columns[later])
            columns[later] = [c - upper[at][later] * u for c, u in zip(columns[later], unit, strict=True)]
        projected[at] = _dot(unit, target)
        target = [t - projected[at] * u for t, u in zip(target, unit, strict=True)]
    solution = [0.0] * width
    for at in reversed(range(width)):
        known = math.fsum(upper[at][later] * solution[later] for later in range(at + 1, width))
        solution[at] = (projected[at] - known) / upper[at][at]
    return solution


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))
