"""Numbers as other tools write them: as numbers, as text, quoted, empty or `NA`."""

from __future__ import annotations

from typing import Any


def number(value: Any) -> float | None:
    """None for what is empty, `NA` or below zero, which tools write where they measured nothing. Raises ValueError for other text."""
    if value is None or str(value).strip() in ("", "NA", "None"):
        return None
    found = float(value)
    return found if found >= 0 else None


def whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else round(found)


def required(value: Any, name: str) -> float:
    found = number(value)
    if found is None:
        raise ValueError(f"{name} is {value!r}")
    return found


def text_or_none(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None
