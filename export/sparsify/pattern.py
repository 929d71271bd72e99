"""Which entries of a weight go, given scores: exact counts, ties broken by position.

A mask is True where the weight becomes zero. Groups lie along the input axis, as sparse tensor cores want them
(Mishra et al. 2021, arXiv:2104.08378).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pattern:
    """kept of every `group` neighbouring input features stay; group 0: anywhere."""

    name: str
    kept: int = 0
    group: int = 0

    @property
    def sparsity(self) -> float | None:
        return 1 - self.kept / self.group if self.group else None


PATTERNS: Mapping[str, Pattern] = {
    item.name: item for item in (Pattern("unstructured"), Pattern("2:4", 2, 4), Pattern("4:8", 4, 8))
}


def lowest_in_rows(scores: Floats, count: int) -> Mask:
    """scores [rows, entries] -> the `count` lowest of each row."""
    mask = np.zeros(scores.shape, dtype=np.bool_)
    # Stable: of equal scores the first goes, on every machine.
    chosen = np.argsort(scores, axis=1, kind="stable")[:, :count]
    np.put_along_axis(mask, chosen, True, axis=1)
    return mask


def lowest_of_all(scores: Floats, count: int) -> Mask:
    """The `count` lowest entries of the whole array."""
    return lowest_in_rows(scores.reshape(1, -1), count).reshape(scores.shape)


def lowest_in_groups(scores: Floats, pattern: Pattern) -> Mask:
    """scores [rows, in_features] -> all but the highest `pattern.kept` of each group; `group` divides in_features."""
    grouped = scores.reshape(-1, pattern.group)
    return lowest_in_rows(grouped, pattern.group - pattern.kept).reshape(scores.shape)
