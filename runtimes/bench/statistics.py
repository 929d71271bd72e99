"""Statistics of a handful of timings, in plain Python so that a device needs no numpy to read them.

Definitions: sample standard deviation divides by n - 1, as llama-bench does; percentiles interpolate linearly between
the two nearest ranks (numpy's default, type 7 of Hyndman and Fan, "Sample Quantiles in Statistical Packages", 1996).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NOISY_VARIATION = 0.05
"""A coefficient of variation above this means that something else used the machine."""


@dataclass(frozen=True, slots=True)
class Summary:
    count: int
    mean: float
    median: float
    standard_deviation: float
    minimum: float
    maximum: float

    @property
    def variation(self) -> float:
        """Coefficient of variation: standard deviation over mean."""
        return self.standard_deviation / self.mean if self.mean else 0.0


def summarize(samples: Sequence[float]) -> Summary:
    return Summary(
        count=len(samples),
        mean=mean(samples),
        median=median(samples),
        standard_deviation=standard_deviation(samples),
        minimum=min(samples),
        maximum=max(samples),
    )


def mean(samples: Sequence[float]) -> float:
    _require(samples)
    return math.fsum(samples) / len(samples)


def median(samples: Sequence[float]) -> float:
    return percentile(samples, 50)


def standard_deviation(samples: Sequence[float]) -> float:
    """Of the sample (n - 1); 0 for a single value, as llama-bench prints it."""
    _require(samples)
    if len(samples) == 1:
        return 0.0
    center = mean(samples)
    return math.sqrt(math.fsum((value - center) ** 2 for value in samples) / (len(samples) - 1))


def coefficient_of_variation(samples: Sequence[float]) -> float:
    center = mean(samples)
    return standard_deviation(samples) / center if center else 0.0


def percentile(samples: Sequence[float], percent: float) -> float:
    """Linear interpolation; `percent` in 0..100."""
    return percentiles(samples, (percent,))[0]


def percentiles(samples: Sequence[float], percents: Iterable[float]) -> tuple[float, ...]:
    """Several of the same samples, which are sorted once."""
    _require(samples)
    ordered = sorted(samples)
    return tuple(_percentile(ordered, percent) for percent in percents)


def _percentile(ordered: Sequence[float], percent: float) -> float:
    if not 0 <= percent <= 100:
        raise ValueError(f"percent must be in 0..100, not {percent}")
    rank = (len(ordered) - 1) * percent / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def _require(samples: Sequence[float]) -> None:
    if not samples:
        raise ValueError("no samples")
