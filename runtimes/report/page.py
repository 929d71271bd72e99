"""report.html: everything the manifest knows of an artifact, on one self-contained page. Nothing else is read.

Verdict first, then the table of formats, the pictures, and the details for whoever doubts them. No scripts, no requests.
docs/report.md says what each section tells and where its figures come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeport import __version__
from edgeport.manifest import Manifest
from edgeport.runtimes.report.document import html_page
from edgeport.runtimes.report.formats import formats_section, plots_section, stages_section
from edgeport.runtimes.report.gate import gate_section
from edgeport.runtimes.report.intensity import roofline_section
from edgeport.runtimes.report.latency import latency_section
from edgeport.runtimes.report.markup import Markup, element, join
from edgeport.runtimes.report.memory import memory_section
from edgeport.runtimes.report.origin import (
    cost_section,
    environment_section,
    files_section,
    model_section,
    recipe_section,
)
from edgeport.runtimes.report.prediction import prediction_section
from edgeport.runtimes.report.quality import quality_section
from edgeport.runtimes.report.soak import soak_section
from edgeport.runtimes.report.verdict import ORDER, findings, headline
from edgeport.units import format_count

REPORT_NAME = "report.html"


def write_report(manifest: Manifest, directory: Path, path: Path | None = None) -> Path:
    """Write the page into `directory`, or as the file `path`; whole or not at all."""
    target = path if path is not None else Path(directory) / REPORT_NAME
    temporary = target.with_name(target.name + ".tmp")
    temporary.write_text(report_page(manifest), encoding="utf-8")
    temporary.replace(target)
    return target


def report_page(manifest: Manifest) -> str:
    sections = [(title, content) for title, content in _sections(manifest) if content is not None]
    body = [
        _header(manifest),
        _verdict(manifest),
        _contents([title for title, _ in sections]),
        element("main", join([_section(title, content) for title, content in sections], "\n")),
        _footer(),
    ]
    return html_page(f"{manifest.name} - edgeport report", body)


def _sections(manifest: Manifest) -> list[tuple[str, Markup | None]]:
    return [
        ("Formats", formats_section(manifest)),
        ("Size, quality and speed", plots_section(manifest)),
        ("Gate", gate_section(manifest.gate)),
        ("Stages", stages_section(manifest)),
        ("Latency", latency_section(manifest)),
        ("Memory", memory_section(manifest)),
        ("Roofline", roofline_section(manifest)),
        ("Predicted and measured", prediction_section(manifest)),
        ("Soak", soak_section(manifest)),
        ("Quality", quality_section(manifest)),
        ("Measured on", environment_section(manifest)),
        ("Model", model_section(manifest)),
        ("Recipe", recipe_section(manifest)),
        ("What the export took", cost_section(manifest)),
        ("Files", files_section(manifest)),
    ]


def _section(title: str, content: Markup) -> Markup:
    name = _anchor(title)
    return element(
        "section",
        element("h2", title, attributes={"id": name}),
        content,
        attributes={"aria-labelledby": name},
    )


def _contents(titles: Sequence[str]) -> Markup:
    links = [element("a", title, attributes={"href": f"#{_anchor(title)}"}) for title in titles]
    return element("nav", join(links, " "), attributes={"aria-label": "Contents"})


def _anchor(title: str) -> str:
    return title.lower().replace(",", "").replace(" ", "-")


def _header(manifest: Manifest) -> Markup:
    parts = [
        f"{manifest.model.family}, {format_count(manifest.model.parameters)} parameters",
        f"recipe {manifest.recipe.get('name', 'unnamed')}, {manifest.model.bits_per_weight:.2f} bits per weight",
        f"for {manifest.device}",
        manifest.created,
    ]
    return element(
        "header",
        element("h1", manifest.name),
        element("p", " · ".join(parts), attributes={"class": "quiet"}),
    )


def _verdict(manifest: Manifest) -> Markup:
    found = findings(manifest)
    worst = min((finding.kind for finding in found), key=ORDER.index)
    items = [element("li", finding.text, attributes={"class": finding.kind}) for finding in found]
    summary = element("p", headline(manifest), attributes={"class": "headline"})
    attributes = {"class": f"verdict {worst}", "aria-label": "Verdict"}
    return element("section", summary, element("ul", *items), attributes=attributes)


def _footer() -> Markup:
    text = (
        f"Written by edgeport {__version__} from manifest.json alone. What each section says: docs/report.md."
    )
    return element("footer", text, attributes={"class": "quiet small"})
