"""The search on one page: the Pareto front as a plot, every candidate in a table."""

from __future__ import annotations

from pathlib import Path

from edgeport.export.search.choose import Measured, measured
from edgeport.export.search.run import SearchResult
from edgeport.runtimes.report.document import html_page
from edgeport.runtimes.report.markup import Markup, element
from edgeport.runtimes.report.plots import Point, scatter
from edgeport.runtimes.report.tables import table
from edgeport.units import format_bytes, format_count

PAGE_NAME = "pareto.html"
HEADERS = ("candidate", "parameters", "weights", "memory", "tokens/s", "perplexity", "KL", "top-1", "")


def table_rows(result: SearchResult) -> list[tuple[str, ...]]:
    """One row of HEADERS per candidate; the last cell says what became of it."""
    return [_row(item, result) for item in result.items]


def _row(item: Measured, result: SearchResult) -> tuple[str, ...]:
    if item.mean_kl_divergence is None or item.perplexity_ratio is None or item.same_top1 is None:
        return (item.name, *[""] * (len(HEADERS) - 2), f"left out: {item.refused}")
    marks = [
        "front" if item.name in result.front else "",
        "chosen" if item.name == result.chosen else "",
        f"gate: {result.rejected[item.name]}" if item.name in result.rejected else "",
    ]
    return (
        item.name,
        format_count(item.parameters),
        format_bytes(item.size_bytes),
        format_bytes(item.memory_bytes),
        f"{item.decode_tokens_per_s:.0f}",
        f"{item.perplexity_ratio - 1:+.2%}",
        f"{item.mean_kl_divergence:.4f}",
        f"{item.same_top1:.1%}",
        ", ".join(mark for mark in marks if mark),
    )


def write_page(result: SearchResult, title: str) -> Path:
    """Write `pareto.html` into the search's folder, whole or not at all."""
    body = [element("h1", title), _plot(result), table(HEADERS, table_rows(result), name="Candidates")]
    path = result.directory / PAGE_NAME
    part = path.with_suffix(".part")
    part.write_text(html_page(title, body), encoding="utf-8")
    part.replace(path)
    return path


def _plot(result: SearchResult) -> Markup:
    """Filled points are on the front."""
    points = [
        Point(item.name, item.size_bytes / 2**20, item.loss, reference=item.name not in result.front)
        for item in measured(result.items)
    ]
    picture = scatter(
        points,
        title="Size against divergence from the source",
        x_title="weights of the largest container (MiB)",
        y_title="mean KL divergence (lower is better)",
    )
    caption = "Filled: on the Pareto front. Hollow: another candidate is at most as large and loses less."
    return element("figure", picture, element("figcaption", caption))
