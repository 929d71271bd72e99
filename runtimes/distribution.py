"""A distribution over the few tokens that are left after cutting, and how it is cut.

Nothing here sorts a vocabulary: top-k and top-p look for the value at their border among few, and ties there go to the lower
token id.
Sources: nucleus sampling (arXiv:1904.09751), min-p (arXiv:2407.01082).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK = 256
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Distribution:
    """tokens: ids [kept], ascending. probabilities: [kept], float64, each above 0 or a tie with it, summing to 1."""

    tokens: Indices
    probabilities: npt.NDArray[np.float64]

    def probability(self, token: int) -> float:
        """0 for a token that was cut."""
        index = int(np.searchsorted(self.tokens, token))
        found = index < self.tokens.size and self.tokens[index] == token
        return float(self.probabilities[index]) if found else 0.0

    def draw(self, generator: np.random.Generator) -> int:
        """One token, for one random number."""
        return int(self.tokens[draw(self.probabilities, generator)])

    def beyond(self, other: Distribution) -> Distribution:
        """max(0, self - other), normalized: what a rejected draw from `other` is replaced by."""
        left = self.probabilities.copy()
        places = np.searchsorted(other.tokens, self.tokens).clip(max=other.tokens.size - 1)
        shared = other.tokens[places] == self.tokens
        left[shared] -= other.probabilities[places[shared]]
        np.maximum(left, 0.0, out=left)
        # Nothing is left where the two are equal but for rounding.
        return Distribution(self.tokens, left / left.sum()) if left.any() else self


def softmax(scores: Floats, temperature: float) -> Floats:
    """Probabilities up to a factor: the likeliest has 1. Equal ones where all scores are -inf."""
    highest = scores.max()
    if highest == -np.inf:
        return np.ones_like(scores)
    with np.errstate(over="ignore"):  # a tiny temperature: -inf is right
        powers: Floats = np.exp((scores - highest) / np.float32(temperature))
    return powers


def draw(weights: npt.NDArray[np.floating[Any]], generator: np.random.Generator) -> int:
    """An index with the probability of its weight's share, for one random number: first a block, then a place in it."""
    whole = weights.size // _BLOCK * _BLOCK
    blocks = weights[:whole].reshape(-1, _BLOCK).sum(axis=1, dtype=np.float64)
    ends = np.cumsum(np.append(blocks, weights[whole:].sum(dtype=np.float64)))
    wanted = generator.random() * ends[-1]
    last = int(np.flatnonzero(np.diff(ends, prepend=0.0))[-1])
    block = min(int(np.searchsorted(ends, wanted, side="right")), last)
    begin = block * _BLOCK
    inside = weights[begin : begin + _BLOCK]
    reached = np.cumsum(inside, dtype=np.float64) + (ends[block - 1] if block else 0.0)
    index = int(np.searchsorted(reached, wanted, side="right"))
    # rounding may put the draw on the end of a sum: then take the last one that has any probability
    return begin + min(index, int(np.flatnonzero(inside)[-1]))


def top_k(scores: Floats, count: int) -> Indices | None:
    """Indices of the `count` highest, ascending; None when all are kept."""
    if count == 0 or count >= scores.size:
        return None
    places = _candidates(scores, count)
    values = scores if places is None else scores[places]
    border = np.partition(values, values.size - count)[values.size - count]
    kept = values > border
    ties = np.flatnonzero(values == border)
    kept[ties[: count - int(np.count_nonzero(kept))]] = True
    indices = np.flatnonzero(kept)
    return indices if places is None else places[indices]


def _candidates(scores: Floats, count: int) -> Indices | None:
    """Few indices with the `count` highest among them: as many blocks have a maximum that is no higher than these."""
    blocks = scores.size // _BLOCK
    if blocks <= 2 * count:
        return None
    highest = scores[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
    return np.flatnonzero(scores >= np.partition(highest, blocks - count)[blocks - count])


def top_p(weights: Floats, mass: float) -> Indices | None:
    """Indices of the fewest highest weights that together reach the share `mass` of all; None when all are kept.

    A histogram over the upper half of the floats' bits, which order positive numbers, finds the bin in which the border
    lies; only that one is sorted.
    """
    if mass >= 1.0:
        return None
    total = weights.sum(dtype=np.float64)
    # All that are lower than this together miss the share that may be missing: none of them is in the nucleus.
    places = np.flatnonzero(weights >= (1.0 - mass) * total / weights.size)
    weights = weights[places]
    bins = weights.view(np.uint32) >> 16
    from_above = np.cumsum(np.bincount(bins, weights=weights)[::-1])
    wanted = mass * total
    place = min(int(np.searchsorted(from_above, wanted, side="left")), from_above.size - 1)
    border = from_above.size - 1 - place
    inside = np.flatnonzero(bins == border)
    ordered = inside[np.argsort(-weights[inside], kind="stable")]
    reached = np.cumsum(weights[ordered], dtype=np.float64) + (from_above[place - 1] if place else 0.0)
    kept = bins > border
    kept[ordered[: int(np.searchsorted(reached, wanted, side="left")) + 1]] = True
    return places[kept]


def min_p(weights: Floats, ratio: float) -> Indices | None:
    """Indices of weights at least `ratio` times the highest; None when all are kept."""
    return None if ratio == 0.0 else np.flatnonzero(weights >= np.float32(ratio) * weights.max())
