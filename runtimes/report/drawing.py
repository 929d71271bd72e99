"""Lines, texts, legends and labels as inline SVG, written by hand: a device has no plotting library.

Colours come from the page (classes `ink`, `quiet`, `grid`, `mark`, `series-0` ... `series-4`), so that a drawing follows light
and dark. A series differs from the others by its dashes and its marker too, never by colour alone. A drawing is 360 units
wide: life size on a phone, somewhat larger on a desk.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeport.runtimes.report.axes import Axis, tick_label
from edgeport.runtimes.report.markup import Markup, element, join

WIDTH = 360
CHARACTER = 6.2
"""Width of a character at 11 units: enough to place labels."""
LABEL_HEIGHT, LABEL_GAP, LABEL_TOP = 14, 18, 8
DASHES = (None, "7 3", "2 3", "9 3 2 3", "1 4")
"""Of the series, in order; the sixth looks like the first again."""


def figure(parts: Sequence[Markup], height: float, title: str) -> Markup:
    attributes = {"viewBox": f"0 0 {WIDTH} {units(height)}", "role": "img", "aria-label": title}
    return element("svg", element("title", title), join(parts), attributes=attributes)


def draw_line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    ends = {"x1": units(x1), "y1": units(y1), "x2": units(x2), "y2": units(y2)}
    return element("line", attributes={**ends, "class": style})


def draw_text(x: float, y: float, text: str, *, anchor: str = "start", style: str = "quiet") -> Markup:
    return element(
        "text", text, attributes={"x": units(x), "y": units(y), "text-anchor": anchor, "class": style}
    )


def draw_path(points: Sequence[tuple[float, float]], series: int) -> Markup:
    """A line through the points in the style of a series."""
    places = " ".join(f"{units(x)},{units(y)}" for x, y in points)
    attributes = {
        "points": places, "class": series_class("line", series), "stroke-dasharray": DASHES[series % len(DASHES)],
    }  # fmt: skip
    return element("polyline", attributes=attributes)


def draw_area(points: Sequence[tuple[float, float]], style: str) -> Markup:
    """A closed, filled outline."""
    return element(
        "polygon",
        attributes={"points": " ".join(f"{units(x)},{units(y)}" for x, y in points), "class": style},
    )


def draw_marker(x: float, y: float, series: int, *, hollow: bool = False) -> Markup:
    """Circle, square, diamond, triangle up or down: by the series, so that it is known without its colour."""
    outline = (
        [(0, -5), (3.5, -3.5), (5, 0), (3.5, 3.5), (0, 5), (-3.5, 3.5), (-5, 0), (-3.5, -3.5)],
        [(-4, -4), (4, -4), (4, 4), (-4, 4)],
        [(0, -6), (6, 0), (0, 6), (-6, 0)],
        [(0, -5.5), (5.5, 4.5), (-5.5, 4.5)],
        [(0, 5.5), (5.5, -4.5), (-5.5, -4.5)],
    )[series % len(DASHES)]
    style = series_class("hollow-marker" if hollow else "marker", series)
    return draw_area([(x + dx, y + dy) for dx, dy in outline], style)


def series_class(kind: str, series: int) -> str:
    return f"{kind} series-{series % len(DASHES)}"


def draw_legend(
    entries: Sequence[tuple[str, int]], y: float, *, markers: bool = False
) -> tuple[list[Markup], float]:
    """A sample and a name for each (name, series), in as many rows as they need; with the height of those rows."""
    parts: list[Markup] = []
    x, row = 4.0, 0
    for name, series in entries:
        width = 34 + CHARACTER * len(name)
        if x > 4 and x + width > WIDTH:
            x, row = 4.0, row + 1
        middle = y + LABEL_HEIGHT * row
        sample = (
            draw_marker(x + 10, middle, series)
            if markers
            else draw_path([(x, middle), (x + 20, middle)], series)
        )
        parts += [sample, draw_text(x + 25, middle + 4, name, style="ink")]
        x += width + 8
    return parts, LABEL_HEIGHT * (row + 1)


def draw_x_ticks(axis: Axis, values: Sequence[float], y: float, labels: Sequence[str]) -> list[Markup]:
    """Small strokes under the axis at height `y` with their labels; the last label ends with the drawing."""
    parts: list[Markup] = []
    for value, label in zip(values, labels, strict=True):
        x = axis.at(value)
        last = value == values[-1]
        parts.append(draw_line(x, y, x, y + 4, "grid"))
        parts.append(draw_text(WIDTH if last else x, y + 16, label, anchor="end" if last else "middle"))
    return parts


def draw_y_ticks(axis: Axis, values: Sequence[float], left: float, right: float) -> list[Markup]:
    """Lines across the drawing with their labels on the left."""
    parts: list[Markup] = []
    for value in values:
        parts.append(draw_line(left, axis.at(value), right, axis.at(value), "grid"))
        parts.append(draw_text(left - 6, axis.at(value) + 4, tick_label(value, values), anchor="end"))
    return parts


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
        step = min(LABEL_HEIGHT, (bottom - LABEL_TOP) / len(group))
        first = max(LABEL_TOP, min(middle - step * (len(group) - 1) / 2, bottom - step * len(group)))
        for index, (name, (x, y)) in enumerate(group):
            label_y = first + index * step if len(group) > 1 else y
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


def units(value: float) -> str:
    return f"{value:.1f}"
