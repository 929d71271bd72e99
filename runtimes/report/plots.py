"""The report's two plots as inline SVG, written by hand: a device has no plotting library. Other plots use its pieces.

Colours come from the page (classes `ink`, `quiet`, `grid`, `mark`, `accent`), so that a plot follows light and dark.
The drawing is 360 units wide: life size on a phone, somewhat larger on a desk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeport.runtimes.report.markup import Markup, element, join

WIDTH = 360
CHARACTER = 6.2
"""Width of a character at 11 units: enough to place labels."""
LABEL_HEIGHT, LABEL_GAP = 14, 18


@dataclass(frozen=True, slots=True)
class Point:
    label: str
    x: float
    y: float
    error: float = 0.0
    reference: bool = False
    """Drawn hollow: what the others are compared with."""


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    value: float
    deviation: float = 0.0


def scatter(points: Sequence[Point], *, title: str, x_title: str, y_title: str) -> Markup:
    """Points with error bars and labels; both axes start where the data does, with ticks at round numbers."""
    height, left, right, top, bottom = 250, 50, 14, 26, 42
    x_ticks = ticks(min(p.x for p in points), max(p.x for p in points), from_zero=True)
    y_ticks = ticks(min(p.y - p.error for p in points), max(p.y + p.error for p in points))
    x_axis = _Axis(x_ticks[0], x_ticks[-1], left, WIDTH - right)
    y_axis = _Axis(y_ticks[0], y_ticks[-1], height - bottom, top)
    parts: list[Markup] = []
    for value in y_ticks:
        parts.append(draw_line(left, y_axis.at(value), WIDTH - right, y_axis.at(value), "grid"))
        parts.append(draw_text(left - 6, y_axis.at(value) + 4, tick_label(value, y_ticks), anchor="end"))
    for value in x_ticks:
        parts.append(
            draw_line(x_axis.at(value), height - bottom, x_axis.at(value), height - bottom + 4, "grid")
        )
        anchor, x = ("end", WIDTH) if value == x_ticks[-1] else ("middle", x_axis.at(value))
        parts.append(draw_text(x, height - bottom + 16, tick_label(value, x_ticks), anchor=anchor))
    parts.append(draw_text((left + WIDTH - right) / 2, height - 8, x_title, anchor="middle"))
    parts.append(draw_text(4, 12, y_title, anchor="start"))
    places = [(x_axis.at(point.x), y_axis.at(point.y)) for point in points]
    for point, (x, y) in zip(points, places, strict=True):
        if point.error:
            parts.append(
                draw_line(x, y_axis.at(point.y - point.error), x, y_axis.at(point.y + point.error), "whisker")
            )
        style = "hollow" if point.reference else "mark"
        parts.append(element("circle", attributes={"cx": _n(x), "cy": _n(y), "r": 4.5, "class": style}))
    parts.extend(draw_labels([point.label for point in points], places, bottom=height - bottom))
    return figure(parts, height, title)


def bars(items: Sequence[Bar], *, title: str, unit: str) -> Markup:
    """Horizontal bars from zero, each with its value and one standard deviation."""
    row, top = 28, 26
    height = top + row * len(items) + 4
    left = 14 + CHARACTER * max(len(item.label) for item in items)
    end = WIDTH - 14 - CHARACTER * max(len(bar_value(item)) for item in items)
    axis = _Axis(0, max(item.value + item.deviation for item in items) or 1, left, end)
    parts = [draw_text(4, 12, f"{title} ({unit})", anchor="start")]
    for index, item in enumerate(items):
        y = top + index * row
        length = max(axis.at(item.value) - left, 1)
        parts.append(draw_text(left - 8, y + 14, item.label, anchor="end", style="ink"))
        box = {"x": _n(left), "y": y + 2, "width": _n(length), "height": row - 12, "rx": 2, "class": "mark"}
        parts.append(element("rect", attributes=box))
        if item.deviation:
            low, high = axis.at(max(0, item.value - item.deviation)), axis.at(item.value + item.deviation)
            parts.append(draw_line(low, y + 10, high, y + 10, "whisker"))
        parts.append(
            draw_text(axis.at(item.value + item.deviation) + 6, y + 14, bar_value(item), style="ink")
        )
    return figure(parts, height, f"{title} ({unit})")


def bar_value(item: Bar) -> str:
    return f"{item.value:,.0f}" if item.value >= 100 else f"{item.value:.1f}"


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


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def draw_labels(
    names: Sequence[str], places: Sequence[tuple[float, float]], *, bottom: float
) -> list[Markup]:
    """Labels beside their points; those of points that lie close together make one column, with lines leading back."""
    parts: list[Markup] = []
    for group in _clusters(sorted(zip(names, places, strict=True), key=lambda item: item[1])):
        width = CHARACTER * max(len(name) for name, _ in group)
        rightmost, leftmost = max(x for _, (x, _) in group), min(x for _, (x, _) in group)
        on_left = rightmost + LABEL_GAP + width > WIDTH
        start = leftmost - LABEL_GAP if on_left else rightmost + LABEL_GAP
        group.sort(key=lambda item: item[1][1])
        middle = sum(y for _, (_, y) in group) / len(group)
        first = min(middle - LABEL_HEIGHT * (len(group) - 1) / 2, bottom - LABEL_HEIGHT * len(group))
        for index, (name, (x, y)) in enumerate(group):
            label_y = first + index * LABEL_HEIGHT if len(group) > 1 else y
            if len(group) > 1:
                parts.append(draw_line(x, y, start + (2 if on_left else -2), label_y, "lead"))
            parts.append(
                draw_text(start, label_y + 4, name, anchor="end" if on_left else "start", style="ink")
            )
    return parts


def _clusters(
    items: Sequence[tuple[str, tuple[float, float]]],
) -> list[list[tuple[str, tuple[float, float]]]]:
    """Points whose labels would touch, by their distance to a member of the group."""
    groups: list[list[tuple[str, tuple[float, float]]]] = []
    for item in items:
        x, y = item[1]
        near = [
            group
            for group in groups
            if any(abs(x - other) < 60 and abs(y - height) < LABEL_HEIGHT for _, (other, height) in group)
        ]
        for group in near:
            groups.remove(group)
        groups.append([*(member for group in near for member in group), item])
    return groups


def figure(parts: Sequence[Markup], height: float, title: str) -> Markup:
    attributes = {"viewBox": f"0 0 {WIDTH} {_n(height)}", "role": "img", "aria-label": title}
    return element("svg", element("title", title), join(parts), attributes=attributes)


def draw_line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return element(
        "line", attributes={"x1": _n(x1), "y1": _n(y1), "x2": _n(x2), "y2": _n(y2), "class": style}
    )


def draw_text(x: float, y: float, text: str, *, anchor: str = "start", style: str = "quiet") -> Markup:
    return element("text", text, attributes={"x": _n(x), "y": _n(y), "text-anchor": anchor, "class": style})


def _n(value: float) -> str:
    return f"{value:.1f}"
