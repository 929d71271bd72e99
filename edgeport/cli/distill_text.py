"""What `edgeport distill` shows: the plan before it runs, and what was won after, for people."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.table import format_table
from edgeport.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from edgeport.export.recover.distill import DistillReport
    from edgeport.export.recover.publish import DistillPlan


def plan_text(plan: DistillPlan) -> str:
    settings = plan.settings
    rows = [("student", f"{plan.student.name}, {format_count(plan.student.spec.parameters())} parameters")]
    if plan.teacher is not None:
        rows.append(
            ("teacher", f"{plan.teacher.name}, {format_count(plan.teacher.spec.parameters())} parameters")
        )
    rows.append(("loss", _loss(plan)))
    rows.append(("text", ", ".join(settings.text)))
    minutes = settings.minutes_wanted
    length = f"{settings.steps} steps" if minutes is None else f"{minutes:g} minutes"
    if plan.schedule is not None:
        length = "as recorded"
    rows.append(("length", f"{length}, {settings.batch_tokens} tokens per step"))
    rows.append(("computed in", f"{plan.precision}, {plan.threads} threads"))
    rows.append(("memory", format_bytes(plan.memory.total_bytes)))
    lines = [format_table(("distill", ""), rows)]
    if plan.heldout is not None:
        lines.append(f"what shares passages with {plan.heldout} is left out of the text")
    return "\n".join(lines)


def _loss(plan: DistillPlan) -> str:
    settings = plan.settings
    parts = []
    if settings.alpha > 0:
        parts.append(f"{settings.alpha:g} divergence at temperature {settings.temperature:g}")
    if settings.alpha < 1:
        parts.append(f"{1 - settings.alpha:g} cross entropy")
    if settings.logit_weight > 0:
        parts.append(f"{settings.logit_weight:g} logits")
    if settings.hidden_weight > 0:
        parts.append(f"{settings.hidden_weight:g} hidden states")
    return " + ".join(parts)


def report_text(report: DistillReport, out: Path) -> str:
    first, last = report.held_cross_entropy_before, report.held_cross_entropy_after
    rows = [
        ("loss on held text", f"{report.held_loss_before:.4f}", f"{report.held_loss_after:.4f}"),
        ("perplexity on held text", f"{math.exp(first):.3f}", f"{math.exp(last):.3f}"),
    ]
    lines = [format_table(("", "before", "after"), rows, right={1, 2})]
    ends = {"schedule": "the schedule ended", "patience": "the loss on held text had stopped falling"}
    lines.append(
        f"{report.steps} steps, {format_count(report.tokens)} tokens; {ends[report.stopped_by]}; kept is step {report.best_step}"
    )
    if report.best_step == 0:
        lines.append("warning: nothing was better than the student as it came; it was left as it was")
    return "\n".join([*lines, f"{out}: {format_seconds(report.seconds)}"])
