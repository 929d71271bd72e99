"""The table as Markdown, grouped by who made the file, and the aims below it."""

from __future__ import annotations

from collections.abc import Sequence

from quality_aims import Verdict
from quality_rows import GROUPS, Row

COLUMNS = (
    "method", "runtime", "file bytes", "weight bytes", "bits/weight", "perplexity", "ratio to source", "mean KL ± error",
    "KL 99 %", "same top-1",
)  # fmt: skip
_RIGHT = 8
"""So many of the last columns are numbers."""


def markdown(rows: Sequence[Row]) -> str:
    """One table per group in the order of GROUPS, rows in order of bytes; a failed row says why across its line."""
    parts = []
    for group in GROUPS:
        members = [row for row in rows if row.group == group]
        if members:
            parts.append(f"**{group}**\n\n{_table(members)}")
    return "\n\n".join(parts)


def markdown_verdicts(verdicts: Sequence[Verdict]) -> str:
    marks = {True: "met", False: "**missed**", None: "not measured"}
    return "\n".join(f"- {marks[item.met]}: {item.text}." for item in verdicts)


def _table(rows: Sequence[Row]) -> str:
    left = len(COLUMNS) - _RIGHT
    head = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * left + "--:|" * _RIGHT]
    ordered = sorted(rows, key=lambda row: (bool(row.failure), row.weight_bytes or 0, row.name, row.engine))
    return "\n".join([*head, *(_line(row) for row in ordered)])


def _line(row: Row) -> str:
    if row.failure:
        reason = " ".join(row.failure.replace("|", "/").split())
        return f"| {row.name} | {row.engine} | not measured: {reason} |" + " |" * (_RIGHT - 1)
    quality = row.quality
    cells = (
        row.name,
        row.engine,
        f"{row.file_bytes:,}",
        f"{row.weight_bytes:,}",
        f"{row.bits_per_weight:.2f}",
        f"{quality['perplexity']:.3f}",
        f"{quality['perplexity_ratio']:.4f} ± {quality['perplexity_ratio_error']:.4f}",
        f"{row.kl:.5f} ± {row.kl_error:.5f}",
        f"{quality['kl_divergence_percentiles']['p99']:.4f}",
        f"{100 * quality['same_top1']:.2f} %",
    )
    return "| " + " | ".join(cells) + " |"
