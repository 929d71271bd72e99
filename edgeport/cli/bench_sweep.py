"""`edgeport bench` with lists: one row for each combination; and rows of other tools beside them (`--import`)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeport.runtimes.bench.result_line import ResultLine
    from edgeport.runtimes.bench.sweep import Sweep


def sweep_of(arguments: argparse.Namespace) -> Sweep:
    """The lists of the command line; threads default to the physical cores."""
    from edgeport.runtimes.bench.sweep import Sweep, parse_values
    from edgeport.runtimes.threads import thread_count

    contexts = parse_values(arguments.context, "--context", lowest=1) if arguments.context else (None,)
    return Sweep(
        prompts=parse_values(arguments.n_prompt or ["512"], "--n-prompt"),
        generations=parse_values(arguments.n_gen or ["128"], "--n-gen"),
        depths=parse_values(arguments.n_depth or ["0"], "--n-depth"),
        threads=parse_values(arguments.threads, "--threads", lowest=1)
        if arguments.threads
        else (thread_count(None),),
        contexts=contexts,
        sequences=parse_values(arguments.batch or ["1"], "--batch", lowest=1),
    )


def imported(files: Sequence[Path]) -> list[ResultLine]:
    from edgeport.runtimes.bench.imported import read_results

    return [line for path in files for line in read_results(path)]


def print_results(lines: Sequence[ResultLine], arguments: argparse.Namespace) -> None:
    """Of imported files alone."""
    from edgeport.manifest import to_json
    from edgeport.runtimes.bench.result_output import result_text

    if arguments.json:
        print(json.dumps({"results": to_json(list(lines))}, indent=2))
    else:
        print(result_text(lines, arguments.output))


def run_sweep_command(
    arguments: argparse.Namespace,
    sweep: Sweep,
    formats: Sequence[str],
    others: Sequence[ResultLine],
    *,
    repetitions: int,
) -> int:
    """0, or 1 when an engine failed on a combination. Combinations that cannot be are rows without a figure."""
    from edgeport.manifest import to_json
    from edgeport.progress import Progress
    from edgeport.runtimes.bench.result_output import result_text
    from edgeport.runtimes.bench.sweep_run import run_sweep

    report = run_sweep(
        arguments.directory,
        sweep,
        formats or None,
        repetitions=repetitions,
        progress=Progress(),
        tell=lambda text: print(text, file=sys.stderr),
    )
    if arguments.json:
        print(json.dumps(to_json(report) | {"imported": to_json(list(others))}, indent=2))
    else:
        print(result_text([*(row.line for row in report.rows), *others], arguments.output))
    for item in report.skipped:
        print(f"not measured: {item.format}: {item.reason}", file=sys.stderr)
    print("a sweep is not written into the manifest", file=sys.stderr)
    return 1 if any(row.failed for row in report.rows) else 0
