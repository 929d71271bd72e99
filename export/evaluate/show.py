"""The figures of an evaluation as text: one table for the text, one for the task, one for generation, and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeport.export.evaluate.generation import GenerationReport, Sample
from edgeport.export.evaluate.statistics import Quality
from edgeport.table import format_table


def show(results: Mapping[str, Quality]) -> str:
    """Results by format, as `evaluate` returns them; parts that were not asked for are left out."""
    first = next(iter(results.values()))
    parts = [_text_table(results), _source_line(first)]
    if first.classification is not None:
        parts += ["", _task_table(results)]
    if first.generation is not None:
        parts += ["", _generation_table(results)]
        parts += _side_by_side({name: item.generation for name, item in results.items() if item.generation})
    return "\n".join(parts)


def _text_table(results: Mapping[str, Quality]) -> str:
    headers = (
        "format",
        "runtime",
        "perplexity",
        "ratio to source",
        "KL divergence",
        "same top",
        "right token",
    )
    rows = [
        (
            name,
            item.runtime,
            f"{item.perplexity:.3f} ± {item.perplexity_error:.3f}",
            f"{item.perplexity_ratio:.4f} ± {item.perplexity_ratio_error:.4f}",
            f"{item.mean_kl_divergence:.5f} ± {item.kl_divergence_error:.5f}",
            f"{item.same_top1:.2%} ± {item.same_top1_error:.2%}",
            _percent(item.token_accuracy),
        )
        for name, item in results.items()
    ]
    return format_table(headers, rows, right={2, 3, 4, 5, 6})


def _source_line(first: Quality) -> str:
    return (
        f"source perplexity {first.base_perplexity:.3f} ± {first.base_perplexity_error:.3f}, "
        f"right token {_percent(first.base_token_accuracy)}; "
        f"{first.tokens} tokens in {first.chunks} chunks of {first.n_ctx}, second halves scored"
    )


def _task_table(results: Mapping[str, Quality]) -> str:
    reports = {name: item.classification for name, item in results.items() if item.classification}
    first = next(iter(reports.values()))
    rows = [
        (
            name,
            f"{item.accuracy:.1%} ± {item.accuracy_error:.1%}",
            f"{item.macro_f1:.3f}",
            f"{item.agreement:.1%}",
        )
        for name, item in reports.items()
    ]
    rows.append(("source", f"{first.source_accuracy:.1%}", f"{first.source_macro_f1:.3f}", ""))
    headers = (first.task, "accuracy", "macro F1", "source's choice")
    table = format_table(headers, rows, right={1, 2, 3})
    return (
        f"{table}\n{first.items} items, {first.classes} classes, a blind guess is right in {first.chance:.1%}"
    )


def _generation_table(results: Mapping[str, Quality]) -> str:
    reports = {name: item.generation for name, item in results.items() if item.generation}
    first = next(iter(reports.values()))
    rows = [
        (name, _median(item), f"{item.never_diverged:.0%}", f"{item.loops:.0%}")
        for name, item in reports.items()
    ]
    rows.append(("source", "", "", f"{first.source_loops:.0%}"))
    headers = ("greedy text", "first other token, median", "never another", "ends in a loop")
    table = format_table(headers, rows, right={1, 2, 3})
    return f"{table}\n{first.prompts} prompts, {first.new_tokens} new tokens each at most"


def _median(report: GenerationReport) -> str:
    value = report.median_first_divergence
    return "none" if value is None else f"{value:g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _side_by_side(reports: Mapping[str, GenerationReport]) -> Sequence[str]:
    lines = []
    for number, sample in enumerate(next(iter(reports.values())).samples):
        lines += [
            "",
            f"sample {number + 1}",
            *_block("prompt", sample.prompt),
            *_block("source", sample.source),
        ]
        for name, report in reports.items():
            lines += _block(name, _difference(report.samples[number]))
    return lines


def _difference(sample: Sample) -> str:
    return "(the same)" if sample.first_divergence is None else sample.container


def _block(title: str, text: str) -> list[str]:
    """The text behind a margin, so that its own blank lines and indentation stay visible."""
    return [f"  {title}:", *(f"    | {line}".rstrip() for line in text.split("\n"))]
