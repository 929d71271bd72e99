"""`edgeport bench --compare A B`: two sides in turns, a ratio with an interval, and a verdict."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from edgeport.cli.bench_text import milliseconds
from edgeport.table import format_table

if TYPE_CHECKING:
    from edgeport.runtimes.bench.measure import Workload
    from edgeport.runtimes.bench.side_by_side import ComparedTest, Comparison


def run_compare_command(
    arguments: argparse.Namespace, workload: Workload, threads: int | None, format_name: str | None
) -> int:
    """0 whatever the verdict: a difference is no failure."""
    from edgeport.manifest import to_json
    from edgeport.progress import Progress
    from edgeport.runtimes.bench.side import parse_side
    from edgeport.runtimes.bench.side_by_side import BLOCKS, compare_sides

    a, b = (
        parse_side(text, arguments.directory, format_name=format_name, threads=threads)
        for text in arguments.compare
    )
    blocks = BLOCKS if arguments.repetitions is None else arguments.repetitions
    found = compare_sides(a, b, workload, blocks=blocks, progress=Progress())
    print(json.dumps(to_json(found), indent=2) if arguments.json else comparison_text(found))
    return 0


def comparison_text(found: Comparison) -> str:
    headers = ["test", "A t/s", "B t/s", "A over B", "95 %", "verdict"]
    rows = [
        [
            test.test,
            f"{test.a_tokens_per_s:.2f}",
            f"{test.b_tokens_per_s:.2f}",
            f"{test.found.ratio:.3f}",
            f"{test.found.low:.3f} to {test.found.high:.3f}",
            _verdict(test),
        ]
        for test in found.tests
    ]
    sides = [
        f"{name}: {item.side.label} ({item.side.artifact}, {item.side.format}, {item.engine} {item.engine_version or ''}, "
        f"{item.side.threads} threads, {item.side.settings}); loads in {milliseconds(min(item.load_ms))}, "
        f"bandwidth {item.roofline or 'not measured'}"
        for name, item in (("A", found.a), ("B", found.b))
    ]
    machine = f"{found.environment.cpu_model}, {found.blocks} blocks of A B B A, load at the start {found.environment.load_average}"
    return "\n".join([*sides, "", format_table(headers, rows, right={1, 2, 3}), "", machine, *found.notes])


def _verdict(test: ComparedTest) -> str:
    """`A is faster by 12.0% (10.1% to 13.9%)`."""
    found = test.found
    if found.verdict == "no difference seen":
        return found.verdict
    if found.verdict == "faster":
        return f"A is faster by {found.ratio - 1:.1%} ({found.low - 1:.1%} to {found.high - 1:.1%})"
    return f"A is slower by {1 - found.ratio:.1%} ({1 - found.high:.1%} to {1 - found.low:.1%})"
