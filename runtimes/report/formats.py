"""All formats in one table, and what they cost against what they give: size, perplexity, speed."""

from __future__ import annotations

from collections.abc import Sequence

from edgeport.manifest import Manifest
from edgeport.runtimes.bench.compare import differences
from edgeport.runtimes.report.markup import Markup, element, join
from edgeport.runtimes.report.plots import Bar, Point, bars, scatter
from edgeport.runtimes.report.rows import COLUMNS, ContainerRow, container_rows, number
from edgeport.runtimes.report.stages import STAGE_COLUMNS, stage_cells
from edgeport.runtimes.report.tables import not_measured, table

CAPTION = (
    "Ratio: source over container. Perplexity, top-1 (same most likely token) and KL (mean divergence) against the "
    "source model; ± is one standard error. Tokens per second: mean ± standard deviation."
)
STAGES_CAPTION = (
    "Float stages in float32 on the gate's text, containers in their own engines; all against the source."
)


def formats_section(manifest: Manifest) -> Markup:
    cells = [[render(row) for _, render in COLUMNS] for row in container_rows(manifest)]
    return table([title for title, _ in COLUMNS], cells, name="Formats", caption=CAPTION)


def stages_section(manifest: Manifest) -> Markup | None:
    """Only where the recipe pruned or recovered."""
    cells = stage_cells(manifest)
    return table(STAGE_COLUMNS, cells, name="Stages", caption=STAGES_CAPTION) if cells else None


def plots_section(manifest: Manifest) -> Markup:
    rows = container_rows(manifest)
    plots = {
        "Size against quality": _size_quality_plot(manifest, rows),
        "Speed against quality": _speed_quality_plot(manifest, rows),
        "Speed by format": _speed_plot(manifest, rows),
    }
    drawn = [plot for plot in plots.values() if plot is not None]
    parts = [element("div", *drawn, attributes={"class": "plots"})] if drawn else []
    return join([*parts, *(not_measured(name) for name, plot in plots.items() if plot is None)], "\n")


def _size_quality_plot(manifest: Manifest, rows: Sequence[ContainerRow]) -> Markup | None:
    points = [
        Point(row.format, row.size_bytes / 2**20, row.perplexity, error=row.perplexity_error or 0.0)
        for row in rows
        if row.perplexity is not None
    ]
    bases = [row.base_perplexity for row in rows if row.base_perplexity is not None]
    if not points:
        return None
    if bases and manifest.source.size_bytes:
        points.append(Point("source", manifest.source.size_bytes / 2**20, bases[0], reference=True))
    picture = scatter(
        points,
        title="Size against perplexity",
        x_title="size on disk (MiB)",
        y_title="perplexity (lower is better)",
    )
    return element(
        "figure", picture, element("figcaption", "Lower left is better; bars are one standard error.")
    )


def _speed_quality_plot(manifest: Manifest, rows: Sequence[ContainerRow]) -> Markup | None:
    points = [
        Point(row.format, row.decode_tokens_per_s, row.perplexity, error=row.perplexity_error or 0.0)
        for row in rows
        if row.perplexity is not None and row.decode_tokens_per_s is not None
    ]
    if not points:
        return None
    picture = scatter(
        points,
        title="Speed against perplexity",
        x_title="written tokens per second",
        y_title="perplexity (lower is better)",
    )
    return element(
        "figure", picture, element("figcaption", f"Lower right is better.{_unlike(manifest, rows)}")
    )


def _speed_plot(manifest: Manifest, rows: Sequence[ContainerRow]) -> Markup | None:
    charts = []
    for title, test in (("Writing", "decode"), ("Reading the prompt", "prefill")):
        items = []
        for row in rows:
            record = manifest.speed.get(row.format)
            value = number(record, f"{test}.tokens_per_s")
            if value is not None:
                items.append(Bar(row.format, value, number(record, f"{test}.standard_deviation") or 0.0))
        if items:
            charts.append(bars(items, title=title, unit="tokens/s"))
    if not charts:
        return None
    caption = f"Higher is better; lines are one standard deviation.{_unlike(manifest, rows)}"
    return element("figure", *charts, element("figcaption", caption))


def _unlike(manifest: Manifest, rows: Sequence[ContainerRow]) -> str:
    """What keeps the measured speeds apart, as a sentence; empty where they may be compared."""
    records = {row.format: manifest.speed[row.format] for row in rows if row.format in manifest.speed}
    found = differences(records)
    return f" Not comparable with each other: {'; '.join(found)}." if found else ""
