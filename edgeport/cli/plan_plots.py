"""The two pictures of a plan: a roofline on logarithmic axes, and memory by cause beside what is usable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeport.runtimes.report.axes import LogAxis, decade_label, decades
from edgeport.runtimes.report.drawing import WIDTH, draw_labels, draw_line, draw_text, figure
from edgeport.runtimes.report.markup import Markup, element
from edgeport.units import format_bytes

LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 50, 14, 26, 42, 300
MOST_NAMED_LINES = 6
OPACITIES = (1.0, 0.65, 0.4, 0.2)


@dataclass(frozen=True, slots=True)
class DeviceLine:
    """A device's roof: tokens per second = bandwidth / bytes per token."""

    label: str
    bandwidth_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Prediction:
    label: str
    bytes_per_token: float
    tokens_per_s: float
    low_tokens_per_s: float
    high_tokens_per_s: float
    fits: bool


@dataclass(frozen=True, slots=True)
class MemoryBar:
    """parts: bytes by cause, in one order for all bars; available_bytes: the mark beside which the bar must end."""

    label: str
    parts: tuple[float, ...]
    available_bytes: float


def roofline_plot(points: Sequence[Prediction], lines: Sequence[DeviceLine]) -> Markup:
    """Predictions with their intervals (hollow where it does not fit) under the roofs of their devices."""
    x_ticks = decades([point.bytes_per_token for point in points])
    y_ticks = decades(
        [value for point in points for value in (point.low_tokens_per_s, point.high_tokens_per_s)]
    )
    x_axis = LogAxis(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    y_axis = LogAxis(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [*_frame(x_axis, y_axis, x_ticks, y_ticks)]
    for line in lines:
        if ends := roof(line, x_axis, y_axis):
            (x1, y1), (x2, y2) = ends
            drawn = draw_line(x_axis.at(x1), y_axis.at(y1), x_axis.at(x2), y_axis.at(y2), "lead")
            parts.append(element("g", element("title", line.label), drawn))
            if len(lines) <= MOST_NAMED_LINES:
                name = f"{line.bandwidth_bytes_per_s / 1e9:.4g} GB/s"
                parts.append(draw_text(x_axis.at(x1) + 4, y_axis.at(y1) + 14, name))
    places = [(x_axis.at(point.bytes_per_token), y_axis.at(point.tokens_per_s)) for point in points]
    for point, (x, y) in zip(points, places, strict=True):
        parts.append(
            draw_line(x, y_axis.at(point.low_tokens_per_s), x, y_axis.at(point.high_tokens_per_s), "whisker")
        )
        style = "mark" if point.fits else "hollow"
        circle = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": 4, "class": style}
        parts.append(element("circle", attributes=circle))
    parts.extend(draw_labels([point.label for point in points], places, bottom=HEIGHT - BOTTOM))
    return figure(parts, HEIGHT, "Decoding speed against bytes read per token")


def roof(
    line: DeviceLine, x_axis: LogAxis, y_axis: LogAxis
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Where a device's line enters and leaves the picture, as (bytes, tokens/s); None when it passes outside."""
    bandwidth = line.bandwidth_bytes_per_s
    first = max(x_axis.low, bandwidth / y_axis.high)
    last = min(x_axis.high, bandwidth / y_axis.low)
    return ((first, bandwidth / first), (last, bandwidth / last)) if first < last else None


def _frame(
    x_axis: LogAxis, y_axis: LogAxis, x_ticks: Sequence[float], y_ticks: Sequence[float]
) -> list[Markup]:
    parts = []
    for value in y_ticks:
        parts.append(draw_line(LEFT, y_axis.at(value), WIDTH - RIGHT, y_axis.at(value), "grid"))
        parts.append(draw_text(LEFT - 6, y_axis.at(value) + 4, decade_label(value), anchor="end"))
    for value in x_ticks:
        parts.append(draw_line(x_axis.at(value), TOP, x_axis.at(value), HEIGHT - BOTTOM, "grid"))
        anchor, x = ("end", WIDTH) if value == x_ticks[-1] else ("middle", x_axis.at(value))
        parts.append(draw_text(x, HEIGHT - BOTTOM + 16, _decimal_bytes(value), anchor=anchor))
    parts.append(
        draw_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "bytes read per decoded token", anchor="middle")
    )
    parts.append(draw_text(4, 12, "decode, tokens/s", anchor="start"))
    return parts


def _decimal_bytes(value: float) -> str:
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:g} {unit}"
    return f"{value:g} B"


def memory_plot(bars: Sequence[MemoryBar]) -> Markup:
    """Stacked bars, every one against its own limit: full width is the larger of what is needed and what is usable."""
    row, left, end = 42, 4, WIDTH - 4
    parts: list[Markup] = []
    for index, bar in enumerate(bars):
        y = index * row
        scale = (end - left) / max(sum(bar.parts), bar.available_bytes)
        parts.append(draw_text(left, y + 14, bar.label, style="ink"))
        parts.append(draw_text(end, y + 14, _share(bar), anchor="end"))
        x = float(left)
        for size, opacity in zip(bar.parts, OPACITIES, strict=True):
            width = size * scale
            box = {
                "x": f"{x:.1f}", "y": y + 20, "width": f"{width:.1f}", "height": 14, "class": "mark",
                "fill-opacity": opacity,
            }  # fmt: skip
            parts.append(element("rect", attributes=box))
            x += width
        limit = left + bar.available_bytes * scale
        parts.append(draw_line(limit, y + 17, limit, y + 37, "whisker"))
    return figure(parts, row * len(bars), "Memory needed and usable")


def _share(bar: MemoryBar) -> str:
    return f"{format_bytes(sum(bar.parts))} of {format_bytes(bar.available_bytes)}"
