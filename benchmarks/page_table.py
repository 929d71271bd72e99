"""The page a table lands in: what stands between two markers is generated, the rest is written by hand."""

from __future__ import annotations

from pathlib import Path

END = "<!-- table: end -->"


def begin(script: str) -> str:
    """The marker that the table of benchmarks/SCRIPT follows."""
    return f"<!-- table: begin, made by benchmarks/{script} -->"


def insert(text: str, page: Path, script: str) -> None:
    """Replace what stands between the markers of a script; a page that is missing is made, and one page may hold the tables
    of several scripts. Raises ValueError for a page without the markers."""
    start = begin(script)
    whole = (
        page.read_text(encoding="utf-8") if page.is_file() else f"# {page.stem.title()}\n\n{start}\n{END}\n"
    )
    before, _, behind = whole.partition(start)
    old, _, after = behind.partition(END)
    if whole.count(start) != 1 or END not in behind or "<!-- table: begin" in old:
        raise ValueError(f"{page} must hold the line {start!r} once, and {END!r} after it")
    temporary = page.with_suffix(".part")
    temporary.write_text(f"{before}{start}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")
    temporary.replace(page)
