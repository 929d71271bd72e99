"""Tables: alignment counts terminal cells, and what would break the grid is refused."""

from __future__ import annotations

import pytest

from edgeport.table import format_table


def test_columns_align_left_and_right() -> None:
    text = format_table(["name", "size"], [["gguf", "5 MiB"], ["onnx", "12 MiB"]], right={1})
    assert text.splitlines() == ["name    size", "----  ------", "gguf   5 MiB", "onnx  12 MiB"]


def test_wide_characters_and_combining_marks_count_as_the_terminal_draws_them() -> None:
    lines = format_table(["a", "b"], [["日本", "x"], ["e\u0301", "y"]]).splitlines()
    assert lines[2:] == ["日本  x", "e\u0301     y"]


def test_no_trailing_spaces() -> None:
    assert all(line == line.rstrip() for line in format_table(["a", "long title"], [["x", "y"]]).splitlines())


@pytest.mark.parametrize("rows", [[["one"]], [["a", "b", "c"]], [["a", "b\nc"]]])
def test_rows_that_break_the_grid_are_refused(rows: list[list[str]]) -> None:
    with pytest.raises(ValueError):
        format_table(["x", "y"], rows)
