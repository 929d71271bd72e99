"""The roofline: how many operations a run does for each byte it reads, and how near it comes to what memory delivers.

A point under the slope waits for memory; one far right of it computes. Williams, Waterman and Patterson, "Roofline", CACM 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeport.devices.profile import ENGINE_FORMATS
from edgeport.devices.shape import ModelShape, shape_of
from edgeport.devices.work import StoredWeights, attention_operations, prompt_work
from edgeport.manifest import Manifest, base_format
from edgeport.runtimes.bench.compare import dig
from edgeport.runtimes.bench.roofline import mean_cache_entries
from edgeport.runtimes.report.axes import LogAxis, decade_label, decades
from edgeport.runtimes.report.cells import roofline_share
from edgeport.runtimes.report.drawing import (
    WIDTH,
    draw_legend,
    draw_line,
    draw_marker,
    draw_text,
    draw_x_ticks,
    figure,
)
from edgeport.runtimes.report.markup import Markup, element, join
from edgeport.runtimes.report.rows import NOT_MEASURED, number, shown, size
from edgeport.runtimes.report.tables import not_measured, table

ENGINE_OF_FORMAT = {name: engine for engine, name in ENGINE_FORMATS.items()}
TITLES = ("format", "read per token", "operations per byte", "achieved", "memory delivers", "share")
CAPTION = (
    "Decoding reads every packed weight once per token, and the cache: achieved is bytes per token times tokens per second. "
    "Memory's rate was measured right before, with as many threads. A model that fits the processor's cache has no share: it "
    "is not memory that it reads."
)
PICTURE_CAPTION = (
    "Filled: decoding; hollow: reading the prompt, where every byte serves many tokens. The slope is the memory bandwidth that was "
    "measured; points above it read the processor's cache."
)


@dataclass(frozen=True, slots=True)
class WorkPoint:
    """One test of one format: operations per byte read, and operations per second."""

    label: str
    test: str
    operations_per_byte: float
    operations_per_s: float


def roofline_section(manifest: Manifest) -> Markup:
    shape = shape_of(manifest.model)
    names = [entry.format for entry in manifest.containers]
    decoding = {name: point for name in names if (point := decode_point(manifest, shape, name))}
    reading = {name: point for name in names if (point := prompt_point(manifest, shape, name))}
    rows = [
        _row(entry.format, manifest.speed[entry.format], decoding.get(entry.format))
        for entry in manifest.containers
        if dig(manifest.speed.get(entry.format), "roofline.verdict") is not None
    ]
    if not rows:
        return not_measured("Roofline", "`edgeport bench` measures it.")
    parts = [table(TITLES, rows, name="Roofline of decoding", caption=CAPTION)]
    if decoding:
        measured = (number(manifest.speed[name], "roofline.bandwidth_bytes_per_s") for name in decoding)
        plot = roofline_plot(
            [(point, names.index(name)) for name, point in decoding.items()],
            [(point, names.index(name)) for name, point in reading.items() if name in decoding],
            sorted({value for value in measured if value}),
        )
        picture = element("figure", plot, element("figcaption", PICTURE_CAPTION))
        parts.insert(0, element("div", picture, attributes={"class": "plots"}))
    return join(parts, "\n")


def decode_point(manifest: Manifest, shape: ModelShape, name: str) -> WorkPoint | None:
    """None where the rate or the bytes per token are not known."""
    record = manifest.speed.get(name)
    weights, cache = (number(record, f"roofline.{part}_bytes_per_token") for part in ("weight", "kv"))
    rate = number(record, "decode.tokens_per_s")
    if not weights or cache is None or not rate:
        return None
    depth = mean_cache_entries(int(number(record, "n_gen") or 0), int(number(record, "n_depth") or 0))
    operations = 2 * shape.active_parameters + attention_operations(shape, 1, depth=round(depth))
    return WorkPoint(name, "decode", operations / (weights + cache), operations * rate)


def prompt_point(manifest: Manifest, shape: ModelShape, name: str) -> WorkPoint | None:
    """Reading a prompt: every piece the engine cuts it into reads the weights once."""
    record = manifest.speed.get(name)
    weights, rate = number(record, "roofline.weight_bytes_per_token"), number(record, "prefill.tokens_per_s")
    tokens, depth = int(number(record, "n_prompt") or 0), int(number(record, "n_depth") or 0)
    engine = ENGINE_OF_FORMAT.get(base_format(name))
    if not weights or not rate or not tokens or engine is None:
        return None
    work = prompt_work(shape, StoredWeights(weights, 0, 0, 0), engine, tokens=tokens, depth=depth)
    operations = work.operations + work.head_operations + work.attention_operations
    return WorkPoint(
        name, "prompt", operations / (work.weights_bytes * work.chunks), operations * rate / tokens
    )


def roofline_plot(
    decoding: Sequence[tuple[WorkPoint, int]],
    reading: Sequence[tuple[WorkPoint, int]],
    bandwidths: Sequence[float],
) -> Markup:
    """Operations per second against operations per byte, both logarithmic, under a slope for each bandwidth (bytes per s).

    The number beside a point is its series; a format has the same one in both.
    """
    left, right, bottom = 50.0, 14.0, 42.0
    legend, legend_height = draw_legend(
        [(point.label, series) for point, series in decoding], 26, markers=True
    )
    top = 30 + legend_height
    height = top + 200 + bottom
    points = [*decoding, *reading]
    x_values = decades([point.operations_per_byte for point, _ in points])
    limits = [point.operations_per_byte * bandwidth for point, _ in decoding for bandwidth in bandwidths]
    y_values = decades([value / 1e9 for value in (*(point.operations_per_s for point, _ in points), *limits)])
    x_axis = LogAxis(x_values[0], x_values[-1], left, WIDTH - right)
    y_axis = LogAxis(y_values[0], y_values[-1], height - bottom, top)
    parts = [draw_text(4, 12, "Gop/s"), *legend]
    for value in y_values:
        parts.append(draw_line(left, y_axis.at(value), WIDTH - right, y_axis.at(value), "grid"))
        parts.append(draw_text(left - 6, y_axis.at(value) + 4, decade_label(value), anchor="end"))
    parts += draw_x_ticks(x_axis, x_values, height - bottom, [decade_label(value) for value in x_values])
    parts.append(
        draw_text((left + WIDTH - right) / 2, height - 8, "operations per byte read", anchor="middle")
    )
    for bandwidth in bandwidths:
        parts += _slope(bandwidth / 1e9, x_axis, y_axis)
    for point, series in points:
        x, y = x_axis.at(point.operations_per_byte), y_axis.at(point.operations_per_s / 1e9)
        marker = draw_marker(x, y, series, hollow=point.test == "prompt")
        told = (
            f"{point.label}, {point.test}: {point.operations_per_s / 1e9:.3g} Gop/s, "
            f"{point.operations_per_byte:.3g} operations per byte"
        )
        parts.append(element("g", element("title", told), marker))
    return figure(parts, height, "Roofline: operations per second against operations per byte")


def _slope(bandwidth_gb_per_s: float, x_axis: LogAxis, y_axis: LogAxis) -> list[Markup]:
    """Gop/s = GB/s times operations per byte, as far as it passes through the picture."""
    first = max(x_axis.low, y_axis.low / bandwidth_gb_per_s)
    last = min(x_axis.high, y_axis.high / bandwidth_gb_per_s)
    if first >= last:
        return []
    ends = [(x_axis.at(x), y_axis.at(x * bandwidth_gb_per_s)) for x in (first, last)]
    middle = (ends[0][0] + ends[1][0]) / 2, (ends[0][1] + ends[1][1]) / 2
    return [
        draw_line(*ends[0], *ends[1], "roof"),
        draw_text(middle[0] + 6, middle[1] + 14, f"{bandwidth_gb_per_s:.3g} GB/s"),
    ]


def _row(name: str, record: Any, point: WorkPoint | None) -> list[str]:
    weights, cache = (number(record, f"roofline.{part}_bytes_per_token") for part in ("weight", "kv"))
    return [
        name,
        size(None if weights is None else weights + (cache or 0)),
        shown(point.operations_per_byte if point else None, "{:.2f}"),
        _gigabytes(number(record, "roofline.used_bytes_per_s")),
        _gigabytes(number(record, "roofline.bandwidth_bytes_per_s")),
        roofline_share(record),
    ]


def _gigabytes(bytes_per_s: float | None) -> str:
    return NOT_MEASURED if bytes_per_s is None else f"{bytes_per_s / 1e9:.1f} GB/s"
