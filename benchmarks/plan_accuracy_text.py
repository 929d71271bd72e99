"""The benchmark's tables, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plan_accuracy_rows import (
    AIMS,
    Row,
    Spread,
    decode_error,
    memory_error,
    missed,
    prefill_error,
)

from edgeport.runtimes.report.card import markdown_table
from edgeport.table import format_table
from edgeport.units import format_bytes

HEADERS = (
    "model", "bits", "engine", "context", "memory", "predicted", "error", "decode t/s", "predicted", "error",
    "prefill t/s", "predicted", "error",
)  # fmt: skip
SPREAD_HEADERS = ("figure", "of", "rows", "median error", "worst", "worst case", "within the interval")


def row_cells(row: Row) -> list[str]:
    measured, predicted, prefill = row.measured, row.predicted, row.predicted.prefill
    return [
        row.case.model,
        row.case.precision.removeprefix("int"),
        measured.engine,
        str(row.case.context_length),
        format_bytes(measured.peak_bytes),
        format_bytes(predicted.peak_bytes),
        _signed(memory_error(row)),
        f"{measured.decode_tokens_per_s:.1f}",
        f"{predicted.decode.expected:.1f}",
        _signed(decode_error(row)),
        f"{measured.prefill_tokens_per_s:.0f}",
        "-" if prefill is None else f"{prefill.expected:.0f}",
        _signed(prefill_error(row)),
    ]


def spread_cells(spread: Spread) -> list[str]:
    inside = "-" if spread.inside is None else f"{spread.inside:.0%}"
    return [
        spread.figure,
        spread.of,
        str(spread.count),
        f"{spread.median:.1%}",
        f"{spread.worst:.1%}",
        spread.worst_case,
        inside,
    ]


def terminal(rows: Sequence[Row], found: Sequence[Spread]) -> str:
    right = set(range(3, len(HEADERS)))
    tables = [
        format_table(HEADERS, [row_cells(row) for row in rows], right=right),
        format_table(SPREAD_HEADERS, [spread_cells(item) for item in found], right={2, 3, 4, 6}),
    ]
    return "\n\n".join([*tables, verdict(found)])


def page(rows: Sequence[Row], found: Sequence[Spread], machine: str) -> str:
    noisy = [row.case.slug for row in rows if row.measured.variation > 0.05]
    note = f" Noisy (above 5 %): {', '.join(noisy)}." if noisy else ""
    table: Callable[..., str] = markdown_table
    return "\n\n".join(
        [
            f"Measured on {machine}.{note}",
            table(HEADERS, [row_cells(row) for row in rows]),
            table(SPREAD_HEADERS, [spread_cells(item) for item in found]),
            verdict(found),
        ]
    )


def verdict(found: Sequence[Spread]) -> str:
    aims = "; ".join(f"{aim.figure} {aim.median:.0%} median, {aim.worst:.0%} worst" for aim in AIMS)
    lines = missed(found)
    return f"Aims: {aims}. " + (f"Missed: {'; '.join(lines)}." if lines else "All met.")


def _signed(error: float | None) -> str:
    return "-" if error is None else f"{error:+.1%}"
