"""A distribution over the few tokens that are left after cutting, and how it is cut.

Nothing here sorts a vocabulary: top-k and top-p look for the value at their border, by a partition or by sorting only what
can be in the nucleus, and ties at the border go to the lower token id.
Sources: nucleus sampling (arXiv:1904.09751), min-p (arXiv:2407.01082).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
        cumulative = np.cumsum(self.probabilities)
        index = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
        # rounding may put the draw on the end of the sum: then take the last token that has any probability
        return int(self.tokens[min(index, int(np.flatnonzero(self.probabilities)[-1]))])

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


def top_k(scores: Floats, count: int) -> Indices | None:
    """Indices of the `count` highest, ascending; None when all are kept."""
    if count == 0 or count >= scores.size:
        return None
    border = np.partition(scores, scores.size - count)[scores.size - count]
    return _at_least(scores, border, count)


def top_p(weights: Floats, mass: float) -> Indices | None:
    """Indices of the fewest highest weights that together reach the share `mass` of all; None when all are kept."""
    if mass >= 1.0:
        return None
    total = float(weights.sum(dtype=np.float64))
    # All weights below this one together miss the share that may be missing, so none of them is in the nucleus.
    can_matter = weights[weights >= (1.0 - mass) * total / weights.size]
    ordered = np.sort(can_matter)[::-1]
    cumulative = np.cumsum(ordered, dtype=np.float64)
    count = min(int(np.searchsorted(cumulative, mass * total, side="left")) + 1, ordered.size)
    return _at_least(weights, ordered[count - 1], count)


def min_p(weights: Floats, ratio: float) -> Indices | None:
    """Indices of weights at least `ratio` times the highest; None when all are kept."""
    return None if ratio == 0.0 else np.flatnonzero(weights >= np.float32(ratio) * weights.max())


def _at_least(values: Floats, border: np.float32, count: int) -> Indices:
    """The `count` highest, whose lowest value is `border`."""
    kept = values > border
    ties = np.flatnonzero(values == border)
    kept[ties[: count - int(np.count_nonzero(kept))]] = True
    return np.flatnonzero(kept)
