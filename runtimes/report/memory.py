"""Memory as the report tells it: over time from import to the last token, and the moments that decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeport.manifest import Manifest, from_json
from edgeport.runtimes.bench.compare import dig
from edgeport.runtimes.bench.timeline import MemoryMoment
from edgeport.runtimes.report.axes import LinearAxis, tick_label, ticks
from edgeport.runtimes.report.cells import Cell, byte_size
from edgeport.runtimes.report.drawing import (
    CHARACTER,
    LABEL_HEIGHT,
    WIDTH,
    draw_area,
    draw_line,
    draw_text,
    draw_x_ticks,
    draw_y_ticks,
    figure,
)
from edgeport.runtimes.report.markup import Markup, element, join
from edgeport.runtimes.report.rows import number, peak_memory_bytes, size
from edgeport.runtimes.report.tables import not_measured, records_table

MIB = 2**20
COLUMNS: tuple[Cell, ...] = (
    ("before loading", lambda record: byte_size(record, "memory.before_load.resident_bytes")),
    ("after loading", lambda record: byte_size(record, "memory.after_load.resident_bytes")),
    ("peak loading", lambda record: byte_size(record, "memory.after_load.peak_resident_bytes")),
    ("after the prompt", lambda record: byte_size(record, "memory.after_prompt.resident_bytes")),
    ("steady", lambda record: byte_size(record, "memory.after_decode.resident_bytes")),
    ("peak", lambda record: size(peak_memory_bytes(record))),
    ("anonymous", lambda record: size(_last(record, "anonymous_bytes"))),
    ("mapped", lambda record: size(_last(record, "mapped_file_bytes"))),
)
CAPTION = (
    "Resident memory of a process that only loads the container, reads one prompt and writes some tokens (steady). Mapped pages "
    "belong to files and can be dropped under pressure; anonymous ones cannot. Both are of the last of these moments."
)
PICTURE_CAPTION = (
    "Below, in full colour: anonymous memory, which decides whether a device survives. On top, pale: pages mapped from files. "
    "Upright lines: where a stage begins. All pictures have the same height of memory."
)


@dataclass(frozen=True, slots=True)
class Timeline:
    """moments: at least two, in the order of time."""

    label: str
    moments: tuple[MemoryMoment, ...]


def memory_section(manifest: Manifest) -> Markup:
    shown = timelines(manifest)
    if shown:
        highest = max(moment.resident_bytes for item in shown for moment in item.moments)
        figures = [element("figure", timeline_plot(item, highest)) for item in shown]
        pictures = [
            element("div", *figures, attributes={"class": "plots"}),
            element("p", PICTURE_CAPTION, attributes={"class": "note"}),
        ]
    else:
        pictures = [not_measured("Memory over time", "`edgeport bench` records it.")]
    figures_table = records_table(
        manifest, manifest.speed, COLUMNS, name="Memory at the moments that decide", caption=CAPTION
    )
    return join([*pictures, figures_table], "\n")


def _last(record: object, name: str) -> float | None:
    """At the last moment that was looked at."""
    steady = number(record, f"memory.after_decode.{name}")
    return steady if steady is not None else number(record, f"memory.after_prompt.{name}")


def timelines(manifest: Manifest) -> list[Timeline]:
    """Of the containers whose record holds one."""
    found = []
    for entry in manifest.containers:
        moments = _moments(manifest.speed.get(entry.format))
        if len(moments) > 1 and moments[-1].seconds > moments[0].seconds:
            found.append(Timeline(entry.format, moments))
    return found


def timeline_plot(item: Timeline, highest_bytes: float) -> Markup:
    """Mapped on anonymous memory; `highest_bytes`: what the axis must reach."""
    beginnings = stage_beginnings(item.moments)
    stages = beginnings if len(beginnings) > 1 else []
    left, right, bottom, top = 50.0, 14.0, 42.0, 22.0 + LABEL_HEIGHT * max(1, len(stages))
    height = top + 130 + bottom
    moments = item.moments
    x_values = ticks(0, moments[-1].seconds, from_zero=True)
    y_values = ticks(0, highest_bytes / MIB, from_zero=True)
    x_axis = LinearAxis(0, x_values[-1], left, WIDTH - right)
    y_axis = LinearAxis(0, y_values[-1], height - bottom, top)
    whole = [(x_axis.at(moment.seconds), y_axis.at(moment.resident_bytes / MIB)) for moment in moments]
    anonymous = [(x_axis.at(moment.seconds), y_axis.at(moment.anonymous_bytes / MIB)) for moment in moments]
    ground = [(whole[-1][0], height - bottom), (whole[0][0], height - bottom)]
    parts = [
        draw_text(4, 12, f"{item.label}: resident memory (MiB)", style="ink"),
        *draw_y_ticks(y_axis, y_values, left, WIDTH - right),
        draw_area([*whole, *reversed(anonymous)], "area-mapped"),
        draw_area([*anonymous, *ground], "area-anonymous"),
        *draw_x_ticks(x_axis, x_values, height - bottom, [tick_label(value, x_values) for value in x_values]),
        draw_text((left + WIDTH - right) / 2, height - 8, "seconds", anchor="middle"),
    ]
    for row, (seconds, stage) in enumerate(stages):
        x, y = x_axis.at(seconds), 28 + LABEL_HEIGHT * row
        on_left = x + 6 + CHARACTER * len(stage) > WIDTH
        parts.append(draw_line(x, y - 8, x, height - bottom, "stage"))
        parts.append(draw_text(x + (-4 if on_left else 4), y, stage, anchor="end" if on_left else "start"))
    return figure(parts, height, f"{item.label}: memory over time")


def stage_beginnings(moments: Sequence[MemoryMoment]) -> list[tuple[float, str]]:
    """(seconds, stage) of the first moment of each stage."""
    found: list[tuple[float, str]] = []
    for moment in moments:
        if not found or found[-1][1] != moment.stage:
            found.append((moment.seconds, moment.stage))
    return found


def _moments(record: object) -> tuple[MemoryMoment, ...]:
    """Empty for anything but a list of moments; a record may come from anywhere."""
    values = dig(record, "memory_timeline") if isinstance(record, Mapping) else None
    if not isinstance(values, (list, tuple)):
        return ()
    try:
        moments = [from_json(MemoryMoment, value) for value in values]
    except (KeyError, TypeError):
        return ()
    return tuple(sorted(moments, key=lambda moment: moment.seconds))
