"""Figures of a manifest's records as text: what is missing says so, and nothing is computed from defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeport.runtimes.bench.compare import dig
from edgeport.runtimes.report.rows import NOT_MEASURED, number, size

Cell = tuple[str, Callable[[Any], str]]
"""Column title, and what a record says under it."""


def text(record: Any, *paths: str) -> str:
    parts = [str(value) for path in paths if (value := dig(record, path)) is not None]
    return " ".join(parts) or NOT_MEASURED


def figure_text(record: Any, path: str, pattern: str) -> str:
    value = number(record, path)
    return NOT_MEASURED if value is None else pattern.format(value)


def milliseconds(record: Any, path: str) -> str:
    value = number(record, path)
    if value is None:
        return NOT_MEASURED
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.3g} ms"


def byte_size(record: Any, path: str) -> str:
    return size(number(record, path))


def roofline_share(record: Any) -> str:
    """`71%`, or why there is none."""
    share = number(record, "roofline.share")
    return f"{share:.0%}" if share is not None else text(record, "roofline.verdict")
