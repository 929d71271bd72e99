"""The fast-path report as text: a table per container, and what is slow with cause, cure and evidence."""

from __future__ import annotations

from collections.abc import Iterator

from edgeport.runtimes.fast_path.report import ContainerReport, FastPathReport, KernelGroup
from edgeport.table import format_table
from edgeport.units import format_bytes

_COLUMNS = ("type", "role", "count", "size", "kernel", "verdict")
_NUMBERS = (2, 3)


def report_text(report: FastPathReport, *, evidence: bool = False) -> str:
    """evidence: also for what is fast."""
    parts = [f"{report.processor}: {' '.join(report.isa) or 'no instruction set known'}"]
    parts += ["\n".join(_container(item, evidence)) for item in report.containers]
    parts += [f"{item.format}: not checked, {item.reason}" for item in report.skipped]
    return "\n\n".join(parts)


def _container(report: ContainerReport, evidence: bool) -> Iterator[str]:
    verdict = "fast" if report.fast else "SLOW"
    yield f"{report.format}: {verdict} ({report.engine}; settings: {report.settings})"
    if report.groups:
        yield format_table(_COLUMNS, [_row(group) for group in report.groups], right=_NUMBERS)
    else:
        yield "no matrices, lookups or attention found"
    for unused in report.unused:
        yield f"unused: {unused.what}"
        yield f"  cure: {unused.cure}"
        yield f"  evidence: {unused.evidence}"
    for group in report.groups:
        if not group.fast:
            yield f"slow: {group.tensor_type}, {group.cause}"
            yield f"  cure: {group.cure}"
            yield f"  evidence: {group.evidence}"
        elif evidence:
            yield f"fast: {group.tensor_type} {group.role}"
            yield f"  evidence: {group.evidence}"


def _row(group: KernelGroup) -> tuple[str, ...]:
    size = format_bytes(group.size_bytes) if group.size_bytes else "-"
    verdict = "fast" if group.fast else "SLOW"
    return group.tensor_type, group.role, str(group.count), size, group.kernel, verdict
