"""HTML and SVG that cannot be injected into: every string is escaped unless it is already Markup.

A model's name, a path or a recipe comes from outside and ends up in the page.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

VOID = frozenset({"meta", "br", "line", "rect", "circle", "path", "polyline", "polygon"})
"""Elements without content; the SVG ones are closed in place."""


class Markup(str):
    """Text that is markup already. Only `element` and `join` make it."""

    __slots__ = ()


def element(name: str, *children: object, attributes: Mapping[str, object] | None = None) -> Markup:
    """`<name key="value">children</name>`; children that are not Markup are escaped, an attribute None is left out."""
    pairs = "".join(
        f' {key}="{html.escape(str(value))}"'
        for key, value in (attributes or {}).items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{pairs}/>")
    return Markup(f"<{name}{pairs}>{join(children)}</{name}>")


def join(children: Iterable[object], separator: str = "") -> Markup:
    return Markup(
        separator.join(child if isinstance(child, Markup) else html.escape(str(child)) for child in children)
    )
