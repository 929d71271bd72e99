"""A soak as the report tells it: what was violated, memory and token times over its length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeport.manifest import Manifest
from edgeport.runtimes.bench.compare import dig
from edgeport.runtimes.bench.timeline import MemoryMoment
from edgeport.runtimes.report.axes import LinearAxis, tick_label, ticks
from edgeport.runtimes.report.cells import Cell, figure_text, text
from edgeport.runtimes.report.drawing import (
    WIDTH,
    draw_path,
    draw_text,
    draw_x_ticks,
    draw_y_ticks,
    figure,
)
from edgeport.runtimes.report.markup import Markup, element, join
from edgeport.runtimes.report.memory import Timeline, timeline_plot
from edgeport.runtimes.report.rows import NOT_MEASURED, number
from edgeport.runtimes.report.tables import not_measured, records_table
from edgeport.units import format_seconds

MIB = 2**20
COLUMNS: tuple[Cell, ...] = (
    ("verdict", lambda record: text(record, "judgement.verdict")),
    ("lasted", lambda record: lasted(record)),
    ("wrong answers", lambda record: _wrong(record)),
    ("resident grows", lambda record: _growth(record, "resident")),
    ("anonymous grows", lambda record: _growth(record, "anonymous")),
    ("p50, last third", lambda record: _drift(record, "p50")),
    ("p95, last third", lambda record: _drift(record, "p95")),
    ("passes", lambda record: figure_text(record, "passes", "{:,.0f}")),
    ("tokens", lambda record: figure_text(record, "tokens", "{:,.0f}")),
)
CAPTION = (
    "One process wrote the same greedy texts over and over. Growth: MiB per hour after warm-up, with its 95 % interval. Last third: "
    "time of a token there over that of the first third. Wrong answers: passes whose tokens differ from the first to the same prompt."
)


def soak_section(manifest: Manifest) -> Markup:
    records = {name: record for name, record in manifest.soak.items() if isinstance(record, Mapping)}
    if not records:
        return not_measured("Soak", "`edgeport bench --soak 10m` runs one.")
    pictures = [
        element("figure", picture) for name, record in records.items() for picture in _pictures(name, record)
    ]
    broken = [
        element("li", f"{name}: {violation}.", attributes={"class": "bad"})
        for name, record in records.items()
        for violation in violations(record)
    ]
    parts = [element("div", *pictures, attributes={"class": "plots"})] if pictures else []
    if broken:
        parts.insert(0, element("div", element("ul", *broken), attributes={"class": "verdict bad"}))
    parts.append(records_table(manifest, records, COLUMNS, name="Soak", caption=CAPTION))
    return join(parts, "\n")


def violations(record: Any) -> list[str]:
    found = dig(record, "judgement.violations")
    return [str(item) for item in found] if isinstance(found, (list, tuple)) else []


def lasted(record: Any) -> str:
    """`10 min 0 s`; what was cut short says of how much."""
    seconds, asked = number(record, "seconds"), number(record, "asked_seconds")
    if seconds is None:
        return NOT_MEASURED
    if asked is not None and dig(record, "interrupted"):
        return f"{format_seconds(seconds)} of {format_seconds(asked)}"
    return format_seconds(seconds)


def _pictures(name: str, record: Any) -> list[Markup]:
    """Memory, and the median time of a token, over the soak; nothing of less than two moments."""
    found = dig(record, "moments")
    moments = (
        [item for item in found if isinstance(item, Mapping)] if isinstance(found, (list, tuple)) else []
    )
    pictures = []
    memory = tuple(
        MemoryMoment(seconds, "decode", int(resident), int(anonymous), int(resident - anonymous))
        for item in moments
        if (seconds := number(item, "seconds")) is not None
        and (resident := number(item, "resident_bytes")) is not None
        and (anonymous := number(item, "anonymous_bytes")) is not None
    )
    if len(memory) > 1:
        highest = max(moment.resident_bytes for moment in memory)
        pictures.append(timeline_plot(Timeline(name, memory), highest))
    times = [
        (seconds, milliseconds)
        for item in moments
        if (seconds := number(item, "seconds")) is not None
        and (milliseconds := number(item, "p50_ms")) is not None
    ]
    if len(times) > 1:
        pictures.append(_times_plot(name, times))
    return pictures


def _times_plot(name: str, times: list[tuple[float, float]]) -> Markup:
    """(seconds, milliseconds) as a line; the axis of milliseconds begins at 0, so that noise looks like noise."""
    left, right, top, bottom, height = 50.0, 14.0, 34.0, 42.0, 206.0
    x_values = ticks(0, times[-1][0], from_zero=True)
    y_values = ticks(0, max(value for _, value in times), from_zero=True)
    x_axis = LinearAxis(0, x_values[-1], left, WIDTH - right)
    y_axis = LinearAxis(0, y_values[-1], height - bottom, top)
    parts = [
        draw_text(4, 12, f"{name}: time of a token, median of each pass (ms)", style="ink"),
        *draw_y_ticks(y_axis, y_values, left, WIDTH - right),
        *draw_x_ticks(x_axis, x_values, height - bottom, [tick_label(value, x_values) for value in x_values]),
        draw_text((left + WIDTH - right) / 2, height - 8, "seconds", anchor="middle"),
        draw_path([(x_axis.at(seconds), y_axis.at(value)) for seconds, value in times], 0),
    ]
    return figure(parts, height, f"{name}: time of a token over the soak")


def _growth(record: Any, kind: str) -> str:
    rate, low, high = (
        number(record, f"judgement.{kind}.{bound}bytes_per_hour") for bound in ("", "low_", "high_")
    )
    if rate is None or low is None or high is None:
        return NOT_MEASURED
    return f"{rate / MIB:+.1f} ({low / MIB:+.1f} to {high / MIB:+.1f})"


def _drift(record: Any, name: str) -> str:
    ratio, low, high = (number(record, f"judgement.drift_{name}.{key}") for key in ("ratio", "low", "high"))
    if ratio is None or low is None or high is None:
        return NOT_MEASURED
    return f"{ratio:.2f}x ({low:.2f} to {high:.2f})"


def _wrong(record: Any) -> str:
    found = dig(record, "judgement.wrong_outputs")
    return str(len(found)) if isinstance(found, (list, tuple)) else NOT_MEASURED
