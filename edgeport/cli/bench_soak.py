"""`edgeport bench DIR --soak 10m`: text for as long as that, and whether anything grows, slows down or changes."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from edgeport.table import format_table
from edgeport.units import format_bytes, format_seconds, parse_bytes, parse_seconds

if TYPE_CHECKING:
    from edgeport.runtimes.bench.measure import Workload
    from edgeport.runtimes.bench.soak_judge import Drift, Growth
    from edgeport.runtimes.bench.soak_run import SoakReport

EXIT_INTERRUPTED = 130
LONGEST_SOAK_PROMPT, LONGEST_SOAK_TEXT = 128, 64


def run_soak_command(
    arguments: argparse.Namespace, workload: Workload | None, threads: int | None, format_name: str | None
) -> int:
    """0 passed, 1 a violation or too short to judge, 130 when interrupted before anything was wrong.

    workload: None takes lengths for a soak, which fit a short context.
    """
    from edgeport.manifest import to_json
    from edgeport.progress import Progress
    from edgeport.runtimes.bench.soak_judge import SoakLimits
    from edgeport.runtimes.bench.soak_run import SoakOptions, record_soak, run_soak
    from edgeport.runtimes.bench.subject import open_subject

    subject = open_subject(arguments.directory)
    room = subject.manifest.model.context_length
    limits = SoakLimits()
    if arguments.soak_growth is not None:
        limits = SoakLimits(growth_bytes_per_hour=float(parse_bytes(arguments.soak_growth)))
    options = SoakOptions(
        seconds=parse_seconds(arguments.soak),
        format=format_name,
        n_prompt=workload.n_prompt if workload else min(LONGEST_SOAK_PROMPT, room // 2),
        n_gen=workload.n_gen if workload else min(LONGEST_SOAK_TEXT, room // 4),
        threads=threads,
        limits=limits,
    )
    report = run_soak(arguments.directory, options, progress=Progress())
    print(json.dumps(to_json(report), indent=2) if arguments.json else soak_text(report))
    for line in report.judgement.violations:
        print(f"violation: {line}", file=sys.stderr)
    if subject.is_artifact:
        record_soak(arguments.directory, report)
    if report.judgement.violations:
        return 1
    if report.interrupted:
        return EXIT_INTERRUPTED
    return 0 if report.judgement.verdict == "passed" else 1


def soak_text(report: SoakReport) -> str:
    judged = report.judgement
    ended = "interrupted" if report.interrupted else "ended by a fault" if report.fault else "ended"
    rows = [
        ["resident memory", *_growth(judged.resident)],
        ["anonymous memory", *_growth(judged.anonymous)],
        ["token, p50", *_drift(judged.drift_p50)],
        ["token, p95", *_drift(judged.drift_p95)],
    ]
    return "\n".join(
        [
            f"{report.format}, {report.engine} {report.engine_version or ''}, {report.threads} threads: {ended} after "
            f"{format_seconds(report.seconds)} of {format_seconds(report.asked_seconds)}, {report.passes} passes, "
            f"{report.tokens} tokens",
            "",
            format_table(["", "first", "last", "change", "95 %"], rows, right={1, 2, 3}),
            "",
            f"answers that changed: {len(judged.wrong_outputs)}; passes with logits that are not finite: "
            f"{judged.passes_with_infinite_logits}",
            f"verdict: {judged.verdict}",
        ]
    )


def _growth(found: Growth | None) -> list[str]:
    if found is None:
        return ["-"] * 4
    interval = f"{format_bytes(found.low_bytes_per_hour)} to {format_bytes(found.high_bytes_per_hour)}"
    return [
        format_bytes(found.first_bytes),
        format_bytes(found.last_bytes),
        f"{format_bytes(found.bytes_per_hour)} an hour",
        interval,
    ]


def _drift(found: Drift | None) -> list[str]:
    if found is None:
        return ["-"] * 4
    return [
        f"{found.first_ms:.3g} ms",
        f"{found.last_ms:.3g} ms",
        f"{found.ratio:.3f} times",
        f"{found.low:.3f} to {found.high:.3f}",
    ]
