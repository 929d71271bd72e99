"""Which of two is faster, from repetitions that took turns as A B B A. Pure.

Within a block a slow drift of the machine falls on both sides equally. The ratio is that of A's rate over B's, the geometric mean
over the blocks; its 95 % interval is a studentized bootstrap over blocks, which keeps its promise for ten of them where the plain
percentile bootstrap is too narrow. Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 12.5.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgeport.errors import UsageError
from edgeport.runtimes.bench.statistics import mean, percentiles, standard_deviation

Verdict = Literal["faster", "slower", "no difference seen"]
FEWEST_BLOCKS = 6
"""Fewer are resampled into almost equal blocks too often, and the interval has no end."""
BOOTSTRAPS = 1000
NEARLY_NOTHING = 1e-12
"""A standard error below this is that of equal blocks; no interval can be scaled by it."""


@dataclass(frozen=True, slots=True)
class Block:
    """Nanoseconds of one turn, two repetitions of each side."""

    a_ns: tuple[int, int]
    b_ns: tuple[int, int]

    @property
    def log_ratio(self) -> float:
        """Of A's rate over B's."""
        return math.log(sum(self.b_ns) / sum(self.a_ns))


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """A's rate over B's with a 95 % interval. verdict: what A is beside B; a difference is only seen when 1 lies outside."""

    ratio: float
    low: float
    high: float
    verdict: Verdict


def paired_ratio(blocks: Sequence[Block]) -> PairedRatio:
    """Raises UsageError for fewer than six blocks."""
    require_blocks(len(blocks))
    logs = [block.log_ratio for block in blocks]
    center = mean(logs)
    low, high = _interval(logs, center)
    verdict: Verdict = "faster" if low > 0 else "slower" if high < 0 else "no difference seen"
    return PairedRatio(math.exp(center), math.exp(low), math.exp(high), verdict)


def require_blocks(count: int) -> None:
    """Raises UsageError for fewer than six."""
    if count < FEWEST_BLOCKS:
        raise UsageError(
            f"{count} blocks say nothing of how much they vary",
            hint=f"compare {FEWEST_BLOCKS} or more, with -r",
        )


def _interval(logs: Sequence[float], center: float) -> tuple[float, float]:
    error = _standard_error(logs)
    if error < NEARLY_NOTHING:
        return center, center
    generator = random.Random(0)
    quotients: list[float] = []
    while len(quotients) < BOOTSTRAPS:
        drawn = generator.choices(logs, k=len(logs))
        drawn_error = _standard_error(drawn)
        if drawn_error > NEARLY_NOTHING:
            quotients.append((mean(drawn) - center) / drawn_error)
    below, above = percentiles(quotients, (2.5, 97.5))
    return center - above * error, center - below * error


def _standard_error(logs: Sequence[float]) -> float:
    return standard_deviation(logs) / math.sqrt(len(logs))
