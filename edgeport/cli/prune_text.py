"""What `edgeport prune` shows: the plan before it runs, and the damage after, for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.table import format_table
from edgeport.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from edgeport.export.prune.plan import PrunePlan
    from edgeport.export.prune.report import PruneReport

_SHAPE = (
    ("layers", "layers"),
    ("hidden width", "hidden_size"),
    ("feed-forward width", "intermediate_size"),
    ("attention heads", "heads"),
    ("key-value heads", "kv_heads"),
    ("vocabulary", "vocab_size"),
)


def plan_text(plan: PrunePlan) -> str:
    before, after = plan.source.spec, plan.spec
    rows = [(title, str(getattr(before, name)), str(getattr(after, name))) for title, name in _SHAPE]
    rows.append(("parameters", format_count(before.parameters()), format_count(after.parameters())))
    rows.append(("size at 16 bits", format_bytes(2 * before.parameters()), format_bytes(plan.size_bytes)))
    table = format_table((plan.source.name, "before", "after"), rows, right={1, 2})
    return "\n".join([table, *plan.notes, *(f"warning: {told}" for told in plan.warnings)])


def report_text(report: PruneReport, out: Path) -> str:
    before, after = report.parameters_before, report.parameters_after
    rows = [("parameters", format_count(before), format_count(after), f"{after / before:.3f}x")]
    first, second = report.perplexity_before, report.perplexity_after
    if first is not None and second is not None:
        rows.append(("perplexity", f"{first:.3f}", f"{second:.3f}", f"{second / first:.3f}x"))
    lines = [format_table(("", "before", "after", "ratio"), rows, right={1, 2, 3})]
    if report.held_windows:
        lines.append(
            f"perplexity of the float model on {report.held_windows} windows of {report.held_n_ctx} tokens that nothing was "
            "chosen on"
        )
    else:
        lines.append(
            "perplexity was not measured: no held window of the calibration text has only kept tokens"
        )
    return "\n".join([*lines, f"{out}: {format_seconds(report.seconds)}"])
