"""Quality as the report tells it: figures against the source, answers, and greedy texts side by side."""

from __future__ import annotations

from typing import Any

from edgeport.manifest import Manifest
from edgeport.runtimes.report.cells import Cell, figure_text, text
from edgeport.runtimes.report.markup import Markup, join
from edgeport.runtimes.report.rows import NOT_MEASURED, number
from edgeport.runtimes.report.samples import samples
from edgeport.runtimes.report.tables import not_measured, records_table

FIGURES: tuple[Cell, ...] = (
    ("runtime", lambda record: text(record, "runtime")),
    ("perplexity", lambda record: figure_text(record, "perplexity", "{:.4f}")),
    ("standard error", lambda record: figure_text(record, "perplexity_error", "{:.4f}")),
    ("source's perplexity", lambda record: figure_text(record, "base_perplexity", "{:.4f}")),
    ("KL divergence", lambda record: figure_text(record, "mean_kl_divergence", "{:.6f}")),
    ("KL, 99 %", lambda record: figure_text(record, "kl_divergence_percentiles.p99", "{:.4f}")),
    ("same top-1", lambda record: figure_text(record, "same_top1", "{:.2%}")),
    ("right token", lambda record: figure_text(record, "token_accuracy", "{:.2%}")),
    ("source's right token", lambda record: figure_text(record, "base_token_accuracy", "{:.2%}")),
    ("tokens", lambda record: figure_text(record, "tokens", "{:,.0f}")),
    ("window", lambda record: figure_text(record, "n_ctx", "{:,.0f}")),
)
ANSWERS: tuple[Cell, ...] = (
    ("task", lambda record: text(record, "classification.task")),
    ("accuracy", lambda record: figure_text(record, "classification.accuracy", "{:.1%}")),
    ("source's accuracy", lambda record: figure_text(record, "classification.source_accuracy", "{:.1%}")),
    ("macro F1", lambda record: figure_text(record, "classification.macro_f1", "{:.3f}")),
    ("source's choice", lambda record: figure_text(record, "classification.agreement", "{:.1%}")),
    ("first other token", lambda record: _first_other(record)),
    ("never another", lambda record: figure_text(record, "generation.never_diverged", "{:.0%}")),
    ("ends in a loop", lambda record: figure_text(record, "generation.loops", "{:.0%}")),
    ("source's loops", lambda record: figure_text(record, "generation.source_loops", "{:.0%}")),
)
FIGURES_CAPTION = (
    "Perplexity by llama.cpp's convention: windows without overlap, the second half of each scored. Right token: the most "
    "likely one is the text's own."
)
ANSWERS_CAPTION = (
    "A classification task, each choice by its likelihood per byte; and greedy texts beside the source's: the median index of the "
    "first token that differs, and the share that ends in a loop. A loop that the source has too is its own."
)


def quality_section(manifest: Manifest) -> Markup:
    if not manifest.quality:
        return not_measured("Quality", "`edgeport eval` measures it.")
    figures, answers = (
        records_table(manifest, manifest.quality, columns, name=name, caption=caption)
        for columns, name, caption in (
            (FIGURES, "Quality against the source", FIGURES_CAPTION),
            (ANSWERS, "Answers and greedy texts", ANSWERS_CAPTION),
        )
    )
    return join([figures, answers, samples(manifest.quality)], "\n")


def _first_other(record: Any) -> str:
    """The median prompt may never part from the source's text."""
    if number(record, "generation.never_diverged") is None:
        return NOT_MEASURED
    value = number(record, "generation.median_first_divergence")
    return "none" if value is None else f"{value:g}"
