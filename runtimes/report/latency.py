"""How long single tokens took, as the report tells it: a cumulative curve per format, and the table of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeport.manifest import Manifest
from edgeport.runtimes.bench.compare import dig
from edgeport.runtimes.report.axes import LinearAxis, LogAxis, log_ticks
from edgeport.runtimes.report.cells import Cell, milliseconds, text
from edgeport.runtimes.report.drawing import (
    WIDTH,
    draw_legend,
    draw_marker,
    draw_path,
    draw_text,
    draw_x_ticks,
    draw_y_ticks,
    figure,
)
from edgeport.runtimes.report.markup import Markup, element, join
from edgeport.runtimes.report.tables import not_measured, records_table

MARKED_PERCENTILES = (50, 95, 99)
SHARES = (0.0, 25.0, 50.0, 75.0, 100.0)
COLUMNS: tuple[Cell, ...] = (
    ("engine", lambda record: text(record, "engine", "engine_version")),
    ("prompt", lambda record: text(record, "prefill.test")),
    ("written", lambda record: text(record, "decode.test")),
    ("first token", lambda record: milliseconds(record, "ttft_warm_ms")),
    ("cold", lambda record: milliseconds(record, "ttft_cold_ms")),
    ("p50", lambda record: milliseconds(record, "inter_token.p50_ms")),
    ("p95", lambda record: milliseconds(record, "inter_token.p95_ms")),
    ("p99", lambda record: milliseconds(record, "inter_token.p99_ms")),
    ("slowest", lambda record: milliseconds(record, "inter_token.maximum_ms")),
    ("load", lambda record: milliseconds(record, "load_ms")),
    ("load, cold", lambda record: milliseconds(record, "load_cold_ms")),
)
CAPTION = (
    "First token: prompt in, most likely token known, with a warm engine; cold: the first prompt of a fresh process. p50, "
    "p95, p99: time between written tokens, over all repetitions. Load, cold: with the container's files out of the page cache."
)


@dataclass(frozen=True, slots=True)
class Distribution:
    """percentiles_ms: 101 values, of 0, 1, ... 100 %, each more than 0 and none less than the one before.

    series: the container's place in the manifest, so that a format looks the same in every drawing.
    """

    label: str
    series: int
    percentiles_ms: tuple[float, ...]


def latency_section(manifest: Manifest) -> Markup:
    shown = distributions(manifest)
    if shown:
        caption = "The share of tokens that took at most so long; marks at 50, 95 and 99 %. Further left is faster, steeper is steadier."
        picture = element("figure", cumulative(shown), element("figcaption", caption))
    else:
        picture = not_measured("Distribution of token times", "`edgeport bench` records it.")
    columns = records_table(manifest, manifest.speed, COLUMNS, name="Latencies", caption=CAPTION)
    return join([element("div", picture, attributes={"class": "plots"}), columns], "\n")


def distributions(manifest: Manifest) -> list[Distribution]:
    """Of the containers whose record holds one."""
    found = []
    for series, entry in enumerate(manifest.containers):
        values = _percentiles(manifest.speed.get(entry.format))
        if values:
            found.append(Distribution(entry.format, series, values))
    return found


def cumulative(items: Sequence[Distribution]) -> Markup:
    """Time on a logarithmic axis against the share of tokens that took no longer."""
    left, right, bottom = 50.0, 14.0, 42.0
    legend, legend_height = draw_legend([(item.label, item.series) for item in items], 26)
    top = 30 + legend_height
    height = top + 170 + bottom
    x_values = log_ticks([value for item in items for value in item.percentiles_ms])
    x_axis = LogAxis(x_values[0], x_values[-1], left, WIDTH - right)
    y_axis = LinearAxis(0, 100, height - bottom, top)
    parts = [draw_text(4, 12, "tokens, % (cumulative)"), *legend]
    parts += draw_y_ticks(y_axis, SHARES, left, WIDTH - right)
    parts += draw_x_ticks(x_axis, x_values, height - bottom, [f"{value:g}" for value in x_values])
    parts.append(draw_text((left + WIDTH - right) / 2, height - 8, "time of a token (ms)", anchor="middle"))
    for item in items:
        places = [(x_axis.at(value), y_axis.at(percent)) for percent, value in enumerate(item.percentiles_ms)]
        parts.append(draw_path(places, item.series))
        parts += [
            element(
                "g",
                element("title", f"{item.label}: {percent} % within {item.percentiles_ms[percent]:.3g} ms"),
                draw_marker(*places[percent], item.series),
            )
            for percent in MARKED_PERCENTILES
        ]
    return figure(parts, height, "Distribution of token times by format")


def _percentiles(record: object) -> tuple[float, ...]:
    """Empty for anything but 101 rising times; a record may come from anywhere."""
    values = dig(record, "inter_token.percentiles_ms") if isinstance(record, Mapping) else None
    if not isinstance(values, (list, tuple)) or len(values) != 101:
        return ()
    if not all(isinstance(value, (int, float)) and 0 < value < float("inf") for value in values):
        return ()
    return tuple(map(float, values)) if list(values) == sorted(values) else ()
