"""report.html: everything the manifest knows of an artifact, on one self-contained page. Nothing else is read.

Verdict first, then the table of formats, two plots, and the details for whoever doubts them. No scripts, no requests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeport import __version__
from edgeport.manifest import Manifest, from_json, to_json
from edgeport.runtimes.bench.compare import differences, dig
from edgeport.runtimes.bench.environment import Environment
from edgeport.runtimes.report.gate import gate_section
from edgeport.runtimes.report.markup import Markup, element, join
from edgeport.runtimes.report.plots import Bar, Point, bars, scatter
from edgeport.runtimes.report.rows import COLUMNS, NOT_MEASURED, ContainerRow, container_rows, number, size
from edgeport.runtimes.report.samples import samples
from edgeport.runtimes.report.stages import STAGE_COLUMNS, stage_cells
from edgeport.runtimes.report.style import STYLE
from edgeport.runtimes.report.verdict import ORDER, findings, headline
from edgeport.units import format_bytes, format_count

REPORT_NAME = "report.html"


def write_report(manifest: Manifest, directory: Path) -> Path:
    """Write `directory/report.html` whole or not at all."""
    path = Path(directory) / REPORT_NAME
    temporary = path.with_suffix(".html.tmp")
    temporary.write_text(report_page(manifest), encoding="utf-8")
    temporary.replace(path)
    return path


def report_page(manifest: Manifest) -> str:
    rows = container_rows(manifest)
    sections = [
        _header(manifest),
        _verdict(manifest),
        element("h2", "Gate"),
        gate_section(manifest.gate, _table),
        element("h2", "Formats"),
        _formats(rows),
        *_stages(manifest),
        element("h2", "Plots"),
        element(
            "div", _quality_plot(manifest, rows), _speed_plot(manifest, rows), attributes={"class": "plots"}
        ),
        element("h2", "Speed"),
        _details(manifest, manifest.speed, SPEED_COLUMNS, SPEED_CAPTION),
        element("h2", "Memory"),
        _details(manifest, manifest.speed, MEMORY_COLUMNS, MEMORY_CAPTION),
        element("h2", "Quality"),
        _details(manifest, manifest.quality, QUALITY_COLUMNS, QUALITY_CAPTION),
        _details(manifest, manifest.quality, ANSWER_COLUMNS, ANSWER_CAPTION),
        samples(manifest.quality),
        element("h2", "Measured on"),
        _environment(manifest),
        element("h2", "Model and recipe"),
        _model(manifest),
        _recipe(manifest),
        element("h2", "Files"),
        _files(manifest),
        _footer(),
    ]
    head = element(
        "head",
        element("meta", attributes={"charset": "utf-8"}),
        element("meta", attributes={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("title", f"{manifest.name} - edgeport report"),
        element("style", Markup(STYLE)),
    )
    body = element("body", join(sections, "\n"))
    return f"<!DOCTYPE html>\n{element('html', head, body, attributes={'lang': 'en'})}\n"


def _header(manifest: Manifest) -> Markup:
    facts = [
        f"{manifest.model.family}, {format_count(manifest.model.parameters)} parameters",
        f"recipe {manifest.recipe.get('name', 'unnamed')}, {manifest.model.bits_per_weight:.2f} bits per weight",
        f"for {manifest.device}",
        manifest.created,
    ]
    return element(
        "header",
        element("h1", manifest.name),
        element("p", " · ".join(facts), attributes={"class": "quiet"}),
    )


def _verdict(manifest: Manifest) -> Markup:
    found = findings(manifest)
    worst = min((finding.kind for finding in found), key=ORDER.index)
    items = [element("li", finding.text, attributes={"class": finding.kind}) for finding in found]
    summary = element("p", headline(manifest), attributes={"class": "headline"})
    return element("section", summary, element("ul", *items), attributes={"class": f"verdict {worst}"})


def _formats(rows: Sequence[ContainerRow]) -> Markup:
    caption = (
        "Ratio: source over container. Perplexity, top-1 (same most likely token) and KL (mean divergence) against the "
        "source model; ± is one standard error. Tokens per second: mean ± standard deviation."
    )
    cells = [[render(row) for _, render in COLUMNS] for row in rows]
    return _table([title for title, _ in COLUMNS], cells, caption=caption)


def _stages(manifest: Manifest) -> list[Markup]:
    """Only where the recipe pruned or recovered."""
    cells = stage_cells(manifest)
    caption = (
        "Float stages in float32 on the gate's text, containers in their own engines; all against the source."
    )
    return [element("h2", "Stages"), _table(STAGE_COLUMNS, cells, caption=caption)] if cells else []


def _quality_plot(manifest: Manifest, rows: Sequence[ContainerRow]) -> Markup:
    points = [
        Point(row.format, row.size_bytes / 2**20, row.perplexity, error=row.perplexity_error or 0.0)
        for row in rows
        if row.perplexity is not None
    ]
    bases = [row.base_perplexity for row in rows if row.base_perplexity is not None]
    if not points:
        return _empty_plot("Size against quality: " + NOT_MEASURED)
    if bases and manifest.source.size_bytes:
        points.append(Point("source", manifest.source.size_bytes / 2**20, bases[0], reference=True))
    picture = scatter(
        points,
        title="Size against perplexity",
        x_title="size on disk (MiB)",
        y_title="perplexity (lower is better)",
    )
    return element(
        "figure", picture, element("figcaption", "Lower left is better; bars are one standard error.")
    )


def _speed_plot(manifest: Manifest, rows: Sequence[ContainerRow]) -> Markup:
    charts = []
    for title, test in (("Writing", "decode"), ("Reading the prompt", "prefill")):
        items = []
        for row in rows:
            record = manifest.speed.get(row.format)
            value = number(record, f"{test}.tokens_per_s")
            if value is not None:
                items.append(Bar(row.format, value, number(record, f"{test}.standard_deviation") or 0.0))
        if items:
            charts.append(bars(items, title=title, unit="tokens/s"))
    if not charts:
        return _empty_plot("Speed by format: " + NOT_MEASURED)
    unlike = differences(
        {row.format: manifest.speed[row.format] for row in rows if row.format in manifest.speed}
    )
    caption = "Higher is better; lines are one standard deviation."
    if unlike:
        caption = f"Not comparable with each other: {'; '.join(unlike)}."
    return element("figure", *charts, element("figcaption", caption))


def _empty_plot(text: str) -> Markup:
    return element("figure", element("figcaption", text))


Cell = tuple[str, Callable[[Any], str]]

SPEED_COLUMNS: tuple[Cell, ...] = (
    ("engine", lambda record: _text(record, "engine", "engine_version")),
    ("prompt", lambda record: _text(record, "prefill.test")),
    ("written", lambda record: _text(record, "decode.test")),
    ("first token", lambda record: _milliseconds(record, "ttft_warm_ms")),
    ("cold", lambda record: _milliseconds(record, "ttft_cold_ms")),
    ("p50", lambda record: _milliseconds(record, "inter_token.p50_ms")),
    ("p95", lambda record: _milliseconds(record, "inter_token.p95_ms")),
    ("p99", lambda record: _milliseconds(record, "inter_token.p99_ms")),
    ("load", lambda record: _milliseconds(record, "load_ms")),
    ("bandwidth", lambda record: _share(record)),
)

MEMORY_COLUMNS: tuple[Cell, ...] = (
    ("before loading", lambda record: size(number(record, "memory.before_load.resident_bytes"))),
    ("after loading", lambda record: size(number(record, "memory.after_load.resident_bytes"))),
    ("peak loading", lambda record: size(number(record, "memory.after_load.peak_resident_bytes"))),
    ("after the prompt", lambda record: size(number(record, "memory.after_prompt.resident_bytes"))),
    ("peak", lambda record: size(number(record, "memory.after_prompt.peak_resident_bytes"))),
    ("anonymous", lambda record: size(number(record, "memory.after_prompt.anonymous_bytes"))),
    ("mapped", lambda record: size(number(record, "memory.after_prompt.mapped_file_bytes"))),
)

QUALITY_COLUMNS: tuple[Cell, ...] = (
    ("runtime", lambda record: _text(record, "runtime")),
    ("perplexity", lambda record: _figure(record, "perplexity", "{:.4f}")),
    ("standard error", lambda record: _figure(record, "perplexity_error", "{:.4f}")),
    ("of the source", lambda record: _figure(record, "base_perplexity", "{:.4f}")),
    ("KL divergence", lambda record: _figure(record, "mean_kl_divergence", "{:.6f}")),
    ("99 %", lambda record: _figure(record, "kl_divergence_percentiles.p99", "{:.4f}")),
    ("same top-1", lambda record: _figure(record, "same_top1", "{:.2%}")),
    ("right token", lambda record: _figure(record, "token_accuracy", "{:.2%}")),
    ("of the source", lambda record: _figure(record, "base_token_accuracy", "{:.2%}")),
    ("tokens", lambda record: _figure(record, "tokens", "{:,.0f}")),
    ("window", lambda record: _figure(record, "n_ctx", "{:,.0f}")),
)

ANSWER_COLUMNS: tuple[Cell, ...] = (
    ("task", lambda record: _text(record, "classification.task")),
    ("accuracy", lambda record: _figure(record, "classification.accuracy", "{:.1%}")),
    ("of the source", lambda record: _figure(record, "classification.source_accuracy", "{:.1%}")),
    ("macro F1", lambda record: _figure(record, "classification.macro_f1", "{:.3f}")),
    ("source's choice", lambda record: _figure(record, "classification.agreement", "{:.1%}")),
    ("first other token", lambda record: _first_other(record)),
    ("never another", lambda record: _figure(record, "generation.never_diverged", "{:.0%}")),
    ("ends in a loop", lambda record: _figure(record, "generation.loops", "{:.0%}")),
    ("of the source", lambda record: _figure(record, "generation.source_loops", "{:.0%}")),
)

SPEED_CAPTION = (
    "First token: prompt in, most likely token known, with a warm engine; cold: the first prompt of a fresh process. p50, "
    "p95, p99: time between written tokens. Bandwidth: bytes read per token times rate, over the measured read bandwidth; "
    "a model that fits the cache has no such share."
)
MEMORY_CAPTION = (
    "Resident memory of a process that only loads the container and reads one prompt. Mapped pages belong to the file and "
    "can be dropped under pressure; anonymous ones cannot."
)
QUALITY_CAPTION = (
    "Perplexity by llama.cpp's convention: windows without overlap, the second half of each scored. Right token: the most "
    "likely one is the text's own."
)
ANSWER_CAPTION = (
    "Left: a classification task, each choice by its likelihood per byte. Right: greedy texts beside the source's, the "
    "median index of the first token that differs, and the share that ends in a loop. A loop that the source has too is its own."
)


def _details(manifest: Manifest, records: Mapping[str, Any], columns: Sequence[Cell], caption: str) -> Markup:
    """One row per container that has a record."""
    cells = [
        [entry.format, *(render(records[entry.format]) for _, render in columns)]
        for entry in manifest.containers
        if isinstance(records.get(entry.format), Mapping)
    ]
    if not cells:
        return element("p", "Not measured.", attributes={"class": "quiet"})
    return _table(["format", *(title for title, _ in columns)], cells, caption=caption)


def _environment(manifest: Manifest) -> Markup:
    """Of the first record; another record's that differs is named."""
    known: dict[str, Environment] = {}
    for name, record in manifest.speed.items():
        try:
            known[name] = from_json(Environment, dig(record, "environment"))
        except (KeyError, TypeError):
            continue
    if not known:
        return element("p", "Not measured.", attributes={"class": "quiet"})
    first = next(iter(known.values()))
    rows = first.rows()
    threads = {name: dig(manifest.speed[name], "threads") for name in known}
    rows.insert(2, ("Threads used", ", ".join(sorted({str(value) for value in threads.values()}))))
    rows.append(
        ("Measured", ", ".join(sorted({str(dig(manifest.speed[name], "measured_at")) for name in known})))
    )
    others = [name for name, item in known.items() if item.cpu_model != first.cpu_model]
    if others:
        rows.append(("Other machines", ", ".join(f"{name}: {known[name].cpu_model}" for name in others)))
    return _facts(rows)


def _model(manifest: Manifest) -> Markup:
    model, source = manifest.model, manifest.source
    rows = [
        ("Source", f"{source.name}, {format_bytes(source.size_bytes)}, {source.dtype}"),
        ("Source fingerprint", source.fingerprint),
        ("weights_id", manifest.weights_id),
        (
            "Shape",
            f"{model.layers} layers, hidden {model.hidden_size}, feed-forward {model.intermediate_size}",
        ),
        ("Attention", f"{model.heads} heads of {model.head_dim}, {model.kv_heads} for key and value"),
        (
            "Vocabulary",
            f"{model.vocab_size:,} tokens, embeddings {'tied' if model.tied_embeddings else 'not tied'}",
        ),
        (
            "Context",
            f"{model.context_length:,} tokens, {format_bytes(model.kv_bytes_per_token)} of cache each",
        ),
        (
            "Made with",
            ", ".join(f"{name} {version}" for name, version in manifest.tool_versions.items())
            or "not recorded",
        ),
    ]
    return _facts(rows)


def _recipe(manifest: Manifest) -> Markup:
    document = {"recipe": to_json(manifest.recipe)} | (
        {"cost": to_json(manifest.cost)} if manifest.cost else {}
    )
    return element("pre", json.dumps(document, indent=2, ensure_ascii=False))


def _files(manifest: Manifest) -> Markup:
    cells = [
        [item.path, format_bytes(item.size_bytes), item.sha256]
        for entry in manifest.containers
        for item in entry.files
    ]
    return _table(["file", "size", "sha256"], cells, style="wide files")


def _footer() -> Markup:
    text = f"Written by edgeport {__version__} from manifest.json alone. How each figure is taken: docs/measure.md."
    return element("footer", text, attributes={"class": "quiet small"})


def _table(
    titles: Sequence[str], cells: Sequence[Sequence[str]], *, caption: str = "", style: str = "wide"
) -> Markup:
    """A table whose rows become cards on a phone: each cell carries its column's title."""
    head = element(
        "thead", element("tr", *(element("th", title, attributes={"scope": "col"}) for title in titles))
    )
    rows = [
        element("tr", *(_cell(title, cell) for title, cell in zip(titles, row, strict=True))) for row in cells
    ]
    parts = [element("caption", caption)] if caption else []
    return element("table", *parts, head, element("tbody", *rows), attributes={"class": style})


def _cell(title: str, text: str) -> Markup:
    style = "missing" if text == NOT_MEASURED else None
    return element("td", text, attributes={"data-label": title, "class": style})


def _facts(rows: Sequence[tuple[str, str]]) -> Markup:
    lines = [
        element("tr", element("th", name, attributes={"scope": "row"}), element("td", value))
        for name, value in rows
    ]
    return element("table", element("tbody", *lines), attributes={"class": "facts"})


def _text(record: Any, *paths: str) -> str:
    parts = [str(value) for path in paths if (value := dig(record, path)) is not None]
    return " ".join(parts) or NOT_MEASURED


def _figure(record: Any, path: str, pattern: str) -> str:
    value = number(record, path)
    return NOT_MEASURED if value is None else pattern.format(value)


def _first_other(record: Any) -> str:
    """The median prompt may never part from the source's text."""
    if number(record, "generation.never_diverged") is None:
        return NOT_MEASURED
    value = number(record, "generation.median_first_divergence")
    return "none" if value is None else f"{value:g}"


def _milliseconds(record: Any, path: str) -> str:
    value = number(record, path)
    if value is None:
        return NOT_MEASURED
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.3g} ms"


def _share(record: Any) -> str:
    share = number(record, "roofline.share")
    return f"{share:.0%}" if share is not None else _text(record, "roofline.verdict")
