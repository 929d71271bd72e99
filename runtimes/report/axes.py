"""Axes of the drawings: linear with ticks at round numbers, and logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Axis(Protocol):
    def at(self, value: float) -> float:
        """Where `value` lies in the drawing."""
        ...


@dataclass(frozen=True, slots=True)
class LinearAxis:
    """From `low` to `high` on the units from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class LogAxis:
    """The same with equal room for each decade; values are more than 0."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        place = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return self.start + place * (self.end - self.start)


def ticks(low: float, high: float, *, from_zero: bool = False) -> list[float]:
    """Three to six round numbers that enclose the data: 1, 2 or 5 times a power of ten apart."""
    low = min(0.0, low) if from_zero else low
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):  # one value, give or take rounding
        half = 0.05 * abs(high) if abs(high) > 1e-3 else 0.5
        low, high = low - half, high + half
    raw = (high - low) / 4
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        last += 1
    return [index * step for index in range(first, last + 1)]


def tick_label(value: float, all_ticks: Sequence[float]) -> str:
    """As many decimals as the distance of two ticks needs."""
    step = all_ticks[1] - all_ticks[0]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}"


def decade_label(value: float) -> str:
    """`0.1`, `1,000`, `100k`, `1M`: short enough to stand beside an axis."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e5, "k")):
        if value >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):g}{unit}"
    return f"{value:,g}"


def decades(values: Sequence[float]) -> list[float]:
    """Powers of ten that enclose the values, at least two."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def log_ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten that enclose the values, which are more than 0; over three decades only the powers."""
    powers = decades(values)
    if len(powers) > 4:
        return powers
    steps = [factor * power for power in powers for factor in (1, 2, 5)]
    low = max(step for step in steps if step <= min(values) * (1 + 1e-9))
    high = min((step for step in steps if step >= max(values) * (1 - 1e-9) and step > low), default=steps[-1])
    return [step for step in steps if low <= step <= high]
