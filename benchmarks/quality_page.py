"""The page the table lands in: what stands between two markers is generated, the rest is written by hand."""

from __future__ import annotations

from pathlib import Path

BEGIN, END = "<!-- table: begin, made by benchmarks/quality.py -->", "<!-- table: end -->"


def insert(text: str, page: Path) -> None:
    """Replace what stands between the markers; a page that is missing is made. Raises ValueError for a page without them."""
    before, after = "# Quality\n\n", "\n"
    if page.is_file():
        whole = page.read_text(encoding="utf-8")
        if whole.count(BEGIN) != 1 or whole.count(END) != 1 or whole.index(BEGIN) > whole.index(END):
            raise ValueError(f"{page} must hold the lines {BEGIN!r} and {END!r} once each, in this order")
        before, after = whole[: whole.index(BEGIN)], whole[whole.index(END) + len(END) :]
    temporary = page.with_suffix(".part")
    temporary.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")
    temporary.replace(page)
