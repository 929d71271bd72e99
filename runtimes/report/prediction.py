"""What was predicted before a container ran, beside what was measured: in a table, and as intervals around "as predicted"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeport.manifest import Manifest
from edgeport.runtimes.bench.compare import dig
from edgeport.runtimes.report.axes import LogAxis, log_ticks
from edgeport.runtimes.report.drawing import (
    CHARACTER,
    WIDTH,
    draw_line,
    draw_marker,
    draw_text,
    draw_x_ticks,
    figure,
)
from edgeport.runtimes.report.markup import Markup, element, join
from edgeport.runtimes.report.rows import number, peak_memory_bytes
from edgeport.runtimes.report.tables import not_measured, note, table
from edgeport.units import format_bytes

TITLES = ("figure", "predicted", "measured", "error", "interval")
PICTURE_CAPTION = (
    "The mark is the measured figure, the line the predicted interval, both over what was predicted: 1 is exactly as "
    "predicted. Filled: inside the interval; hollow: outside."
)


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of one format; `shown` turns a value into text."""

    label: str
    figure: str
    predicted: float
    low: float
    high: float
    measured: float
    shown: Callable[[float], str]

    @property
    def error(self) -> float:
        """Measured over predicted, less 1: 0.1 means that 10 % more was measured than predicted."""
        return self.measured / self.predicted - 1

    @property
    def inside(self) -> bool:
        return self.low <= self.measured <= self.high


def prediction_section(manifest: Manifest) -> Markup:
    found = compared(manifest)
    if not found:
        return not_measured("Prediction", "`edgeport bench` records it where this machine's rates are known.")
    caption = (
        "Error: measured over predicted. Memory is the largest resident size; rates are those of the tests above. "
        + " ".join(_basis(manifest))
    )
    rows = [
        [
            f"{item.label}, {item.figure}",
            item.shown(item.predicted),
            item.shown(item.measured),
            f"{item.error:+.0%}{'' if item.inside else ', outside'}",
            f"{item.shown(item.low)} to {item.shown(item.high)}",
        ]
        for item in found
    ]
    picture = element("figure", prediction_plot(found), element("figcaption", PICTURE_CAPTION))
    return join(
        [
            element("div", picture, attributes={"class": "plots"}),
            table(TITLES, rows, name="Predicted beside measured"),
            note(caption),
        ],
        "\n",
    )


def compared(manifest: Manifest) -> list[Compared]:
    """Every figure that was both predicted and measured."""
    found = []
    for entry in manifest.containers:
        record = manifest.speed.get(entry.format)
        for name, unit, measured, shown in (
            ("memory", "bytes", peak_memory_bytes(record), format_bytes_of),
            ("prefill", "tokens_per_s", number(record, "prefill.tokens_per_s"), format_rate),
            ("decode", "tokens_per_s", number(record, "decode.tokens_per_s"), format_rate),
        ):
            predicted, low, high = (
                number(record, f"predicted.{name}_{bound}{unit}") for bound in ("", "low_", "high_")
            )
            if predicted and low and high and measured:
                found.append(Compared(entry.format, name, predicted, low, high, measured, shown))
    return found


def prediction_plot(items: Sequence[Compared]) -> Markup:
    """A row per figure, on a logarithmic axis of measured over predicted."""
    row, top, bottom = 20, 34, 24
    names = [f"{item.label} {item.figure}" for item in items]
    left, right = 14 + CHARACTER * max(map(len, names)), 14.0
    height = top + row * len(items) + bottom
    values = [value / item.predicted for item in items for value in (item.measured, item.low, item.high)]
    x_values = log_ticks([*values, 1.0])
    axis = LogAxis(x_values[0], x_values[-1], left, WIDTH - right)
    ground = height - bottom
    parts = [
        draw_text(4, 12, "measured over predicted"),
        draw_line(axis.at(1), top - 10, axis.at(1), ground, "roof"),
        *draw_x_ticks(axis, x_values, ground, [f"{value:g}" for value in x_values]),
        draw_line(left, ground, WIDTH - right, ground, "grid"),
    ]
    for index, item in enumerate(items):
        y = top + row * index + 6.0
        low, high, measured = (
            axis.at(value / item.predicted) for value in (item.low, item.high, item.measured)
        )
        told = f"{item.label}, {item.figure}: {item.error:+.0%}"
        parts += [
            draw_text(left - 8, y + 4, names[index], anchor="end", style="ink"),
            draw_line(low, y, high, y, "whisker"),
            element("g", element("title", told), draw_marker(measured, y, 0, hollow=not item.inside)),
        ]
    return figure(parts, height, "Measured over predicted, by format and figure")


def format_bytes_of(value: float) -> str:
    return format_bytes(round(value))


def format_rate(value: float) -> str:
    return f"{value:,.0f} t/s" if value >= 100 else f"{value:.1f} t/s"


def _basis(manifest: Manifest) -> list[str]:
    """A sentence for each prediction that rests on something else."""
    found = {
        (str(dig(record, "predicted.profile")), str(dig(record, "predicted.basis")))
        for record in manifest.speed.values()
        if dig(record, "predicted.basis") is not None
    }
    return [f"From profile {profile}: {basis}." for profile, basis in sorted(found)]
