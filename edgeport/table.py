"""Aligned plain-text tables for command output: the same on a terminal, in a pipe and in a log file.

Cells are never wrapped or cut, so that a table can be searched and copied; `--json` is for programs.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence

GAP = "  "


def format_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[int] = ()
) -> str:
    """One header line, one rule, one line per row; the columns whose index is in `right` align right.

    Columns are as wide as their widest cell, counted in terminal cells. Raises ValueError when a row has not exactly
    as many cells as there are headers, or when a cell holds a line break.
    """
    for row in (headers, *rows):
        if len(row) != len(headers):
            raise ValueError(f"a row has {len(row)} cells, the table has {len(headers)} columns: {list(row)}")
        if any("\n" in cell for cell in row):
            raise ValueError(f"a cell holds a line break: {list(row)}")
    widths = [max(map(_width, column)) for column in zip(headers, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    lines = (_line(row, widths, right) for row in (headers, rule, *rows))
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int], right: Collection[int]) -> str:
    padded = []
    for index, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        space = " " * (width - _width(cell))
        padded.append(space + cell if index in right else cell + space)
    return GAP.join(padded).rstrip()


def _width(text: str) -> int:
    """Terminal cells: wide characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )
