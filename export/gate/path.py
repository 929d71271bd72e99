"""The ladder's path and the gate's lines as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from edgeport.export.gate.ladder import Step
from edgeport.export.gate.lines import GateLine
from edgeport.table import format_table
from edgeport.units import format_bytes

_HEADERS = ("rung", "recipe", "solver", "bits", "size", "perplexity", "KL", "top-1", "gate")


def path_text(path: Sequence[Step], *, header: bool = True) -> str:
    """One line per rung: size of the largest container, figures of the one that lost most, the verdict."""
    rows = [_row(step) for step in path]
    text = format_table(_HEADERS, rows, right={3, 4, 5, 6, 7})
    return text if header else "\n".join(text.splitlines()[2:])


def _row(step: Step) -> tuple[str, ...]:
    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    size = "-" if step.size_bytes is None else format_bytes(step.size_bytes)
    loss = None if step.perplexity_ratio is None else step.perplexity_ratio - 1
    verdict = f"{step.verdict}: {step.reason}" if step.reason else step.verdict
    return (
        step.rung,
        step.recipe,
        step.solver,
        shown(step.bits_per_weight, ".2f"),
        size,
        shown(loss, "+.2%"),
        shown(step.mean_kl_divergence, ".4f"),
        shown(step.same_top1, ".1%"),
        " ".join(verdict.split()),
    )


def lines_text(lines: Sequence[GateLine]) -> str:
    rows = [
        (
            line.container,
            line.name,
            line.measured_text,
            line.threshold_text,
            line.verdict,
            " ".join(line.detail.split()),
        )
        for line in lines
    ]
    return format_table(("container", "gate", "measured", "allowed", "verdict", "detail"), rows, right={2, 3})
