"""The pictures of many formats at once: points on two axes, and bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeport.runtimes.report.axes import LinearAxis, tick_label, ticks
from edgeport.runtimes.report.drawing import (
    CHARACTER,
    WIDTH,
    draw_labels,
    draw_line,
    draw_text,
    draw_x_ticks,
    draw_y_ticks,
    figure,
    units,
)
from edgeport.runtimes.report.markup import Markup, element


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
    x_axis = LinearAxis(x_ticks[0], x_ticks[-1], left, WIDTH - right)
    y_axis = LinearAxis(y_ticks[0], y_ticks[-1], height - bottom, top)
    parts = draw_y_ticks(y_axis, y_ticks, left, WIDTH - right)
    parts += draw_x_ticks(x_axis, x_ticks, height - bottom, [tick_label(value, x_ticks) for value in x_ticks])
    parts.append(draw_text((left + WIDTH - right) / 2, height - 8, x_title, anchor="middle"))
    parts.append(draw_text(4, 12, y_title, anchor="start"))
    places = [(x_axis.at(point.x), y_axis.at(point.y)) for point in points]
    for point, (x, y) in zip(points, places, strict=True):
        if point.error:
            parts.append(
                draw_line(x, y_axis.at(point.y - point.error), x, y_axis.at(point.y + point.error), "whisker")
            )
        style = "hollow" if point.reference else "mark"
        parts.append(element("circle", attributes={"cx": units(x), "cy": units(y), "r": 4.5, "class": style}))
    parts.extend(draw_labels([point.label for point in points], places, bottom=height - bottom))
    return figure(parts, height, title)


def bars(items: Sequence[Bar], *, title: str, unit: str) -> Markup:
    """Horizontal bars from zero, each with its value and one standard deviation."""
    row, top = 28, 26
    height = top + row * len(items) + 4
    left = 14 + CHARACTER * max(len(item.label) for item in items)
    end = WIDTH - 14 - CHARACTER * max(len(bar_value(item)) for item in items)
    axis = LinearAxis(0, max(item.value + item.deviation for item in items) or 1, left, end)
    parts = [draw_text(4, 12, f"{title} ({unit})", anchor="start")]
    for index, item in enumerate(items):
        y = top + index * row
        length = max(axis.at(item.value) - left, 1)
        parts.append(draw_text(left - 8, y + 14, item.label, anchor="end", style="ink"))
        box = {
            "x": units(left),
            "y": y + 2,
            "width": units(length),
            "height": row - 12,
            "rx": 2,
            "class": "mark",
        }
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
