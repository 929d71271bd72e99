"""The page a table lands in: what stands between two markers is generated, the rest is written by hand."""

from __future__ import annotations

from pathlib import Path

END = "<!-- table: end -->"


def begin(script: str) -> str:
    """The marker that the table of benchmarks/SCRIPT follows."""
    return f"<!-- table: begin, made by benchmarks/{script} -->"


def insert(text: str, page: Path, script: str) -> None:
    """Replace what stands between the markers of a script; a page that is missing is made. Raises ValueError for a page
    without them."""
    start = begin(script)
    whole = (
        page.read_text(encoding="utf-8") if page.is_file() else f"# {page.stem.title()}\n\n{start}\n{END}\n"
    )
    if whole.count(start) != 1 or whole.count(END) != 1 or whole.index(start) > whole.index(END):
        raise ValueError(f"{page} must hold the lines {start!r} and {END!r} once each, in this order")
    before, after = whole[: whole.index(start)], whole[whole.index(END) + len(END) :]
    temporary = page.with_suffix(".part")
    temporary.write_text(f"{before}{start}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")
    temporary.replace(page)
