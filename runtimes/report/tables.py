"""Tables of the written pages: headers with scopes, a box of their own to scroll in where the screen is narrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeport.manifest import Manifest
from edgeport.runtimes.report.cells import Cell
from edgeport.runtimes.report.markup import Markup, element
from edgeport.runtimes.report.rows import NOT_MEASURED


def table(
    titles: Sequence[str], cells: Sequence[Sequence[str]], *, name: str, caption: str = "", style: str = ""
) -> Markup:
    """One row per item; the first column names it. `name` is what a screen reader calls the box it scrolls in."""
    head = element("tr", *(element("th", title, attributes={"scope": "col"}) for title in titles))
    rows = [
        element(
            "tr",
            element("th", row[0], attributes={"scope": "row"}),
            *(_cell(cell) for cell in row[1:]),
        )
        for row in cells
    ]
    whole = element(
        "table", element("thead", head), element("tbody", *rows), attributes={"class": style or None}
    )
    box = element(
        "div", whole, attributes={"class": "scroll", "role": "region", "tabindex": 0, "aria-label": name}
    )
    return element("div", box, note(caption) if caption else "", attributes={"class": "table"})


def records_table(
    manifest: Manifest, records: Mapping[str, Any], columns: Sequence[Cell], *, name: str, caption: str = ""
) -> Markup:
    """One row per container that has a record. A column that is empty for all of them is left out, and said to be."""
    found = [
        (entry.format, [render(records[entry.format]) for _, render in columns])
        for entry in manifest.containers
        if isinstance(records.get(entry.format), Mapping)
    ]
    kept = [index for index in range(len(columns)) if any(cells[index] != NOT_MEASURED for _, cells in found)]
    if not kept:
        return not_measured(name)
    missing = [title for index, (title, _) in enumerate(columns) if index not in kept]
    if missing:
        caption = f"{caption} Not measured: {', '.join(missing)}.".strip()
    rows = [[title, *(cells[index] for index in kept)] for title, cells in found]
    return table(["format", *(columns[index][0] for index in kept)], rows, name=name, caption=caption)


def facts(rows: Sequence[tuple[str, str]]) -> Markup:
    """Names with one value each."""
    lines = [
        element("tr", element("th", name, attributes={"scope": "row"}), element("td", value))
        for name, value in rows
    ]
    return element("table", element("tbody", *lines), attributes={"class": "facts"})


def note(text: str) -> Markup:
    return element("p", text, attributes={"class": "note"})


def not_measured(subject: str, cure: str = "") -> Markup:
    """One sentence instead of a picture or a table."""
    return element(
        "p", f"{subject}: {NOT_MEASURED}.{' ' + cure if cure else ''}", attributes={"class": "quiet"}
    )


def _cell(text: str) -> Markup:
    return element("td", text, attributes={"class": "missing" if text == NOT_MEASURED else None})
