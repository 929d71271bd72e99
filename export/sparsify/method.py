"""What a method is: one weight and what its input looked like in, the weight with its zeros out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.sparsify.pattern import (
    Floats,
    Mask,
    Pattern,
    lowest_in_groups,
    lowest_in_rows,
    lowest_of_all,
)


@dataclass(frozen=True, slots=True)
class Target:
    """sparsity: share of zeros; scope: `row` or `tensor`, where the pattern has no groups."""

    sparsity: float
    pattern: Pattern
    scope: str = "row"


class Sparsifier(Protocol):
    """Values of one weight with its zeros."""

    def __call__(self, values: Floats, target: Target) -> Floats:
        """values [out_features, in_features], finite; a new array of the same shape comes back."""
        ...


class Method(Protocol):
    """`prepare` of a method's module: what can be worked out from the input alone serves all weights that share it."""

    def __call__(self, statistics: InputStatistics | None) -> Sparsifier:
        """`statistics` is None for methods that need none."""
        ...


def mask_of(scores: Floats, target: Target) -> Mask:
    """The entries of lowest score [out_features, in_features] that `target` asks to be zero."""
    if target.pattern.group:
        return lowest_in_groups(scores, target.pattern)
    if target.scope == "tensor":
        return lowest_of_all(scores, round(target.sparsity * scores.size))
    return lowest_in_rows(scores, round(target.sparsity * scores.shape[1]))
