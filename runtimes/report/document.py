"""The frame of every written page: one document that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from edgeport.runtimes.report.markup import Markup, element, join
from edgeport.runtimes.report.style import STYLE


def html_page(title: str, body: Sequence[Markup]) -> str:
    """A whole document in the style of the written pages, readable without anything else."""
    head = element(
        "head",
        element("meta", attributes={"charset": "utf-8"}),
        element("meta", attributes={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    whole = element("html", head, element("body", join(body, "\n")), attributes={"lang": "en"})
    return f"<!DOCTYPE html>\n{whole}\n"
