"""`edgeport bench DIR`: speed and memory of each container on this machine, by llama-bench's definitions."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.cli.emulation import add_emulation_arguments, emulation_of, emulation_text
from edgeport.cli.refine import refinable, refine_saved, refined_lines
from edgeport.errors import UsageError
from edgeport.table import format_table
from edgeport.units import format_bytes

if TYPE_CHECKING:
    from edgeport.devices.profile import DeviceProfile
    from edgeport.manifest import DraftEntry
    from edgeport.runtimes.bench.run import BenchReport
    from edgeport.runtimes.bench.speed import Rate, Speed

ABSENT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "pp512 is the rate of reading a prompt of 512 tokens, tg128 of writing 128 tokens one by one (docs/measure.md).\n"
        "The figures also go into the manifest, from where `edgeport report` takes them; those of --as and --memory do not."
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="an artifact folder")
    parser.add_argument(
        "--format",
        action="append",
        metavar="NAME",
        help="only this container; again or with commas for more (default: all that have an engine here)",
    )
    parser.add_argument("-p", "--n-prompt", type=int, default=512, metavar="N", help="prompt tokens (512)")
    parser.add_argument("-n", "--n-gen", type=int, default=128, metavar="N", help="generated tokens (128)")
    parser.add_argument(
        "-d", "--n-depth", type=int, default=0, metavar="N", help="tokens in the cache before each test (0)"
    )
    parser.add_argument("-r", "--repetitions", type=int, default=5, metavar="N", help="after a warm-up (5)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="default: the physical cores within the quota"
    )
    add_emulation_arguments(parser)
    parser.add_argument(
        "--refine",
        metavar="NAME",
        help="correct the kernel rates of this saved device profile by what was measured",
    )
    parser.add_argument("--no-memory", action="store_true", help="leave the memory run out")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document; `results` is llama-bench's"
    )


def run(arguments: argparse.Namespace) -> int:
    """0, or 1 when an engine failed on its container, or a container does not fit what is emulated."""
    from edgeport.manifest import to_json
    from edgeport.progress import Progress
    from edgeport.runtimes.bench.measure import Workload
    from edgeport.runtimes.bench.run import BenchOptions, benchmark, record

    emulation, device = emulation_of(arguments)
    saved = _saved_profile(arguments, emulated=emulation is not None)
    named = [name for item in arguments.format or () for name in item.split(",") if name]
    options = BenchOptions(
        workload=Workload(
            n_prompt=arguments.n_prompt,
            n_gen=arguments.n_gen,
            n_depth=arguments.n_depth,
            repetitions=arguments.repetitions,
        ),
        formats=tuple(named) or None,
        threads=arguments.threads,
        memory=not arguments.no_memory,
        emulation=emulation,
        device=device,
    )
    report = benchmark(arguments.directory, options, progress=Progress())
    print(json.dumps(to_json(report), indent=2) if arguments.json else report_text(report))
    for item in report.skipped:
        print(f"not measured: {item.format}: {item.reason}", file=sys.stderr)
    for item in report.failed:
        print(f"failed: {item.format}: {item.reason}", file=sys.stderr)
    for item in report.does_not_fit:
        print(f"{item.format} {item.reason}", file=sys.stderr)
    if report.containers and report.emulation is None:  # figures of this machine are what the manifest holds
        record(arguments.directory, report)
    if saved is not None:
        for line in refined_lines(refine_saved(saved, arguments.directory, report)):
            print(line, file=sys.stderr)
    return 1 if report.failed or report.does_not_fit else 0


def _saved_profile(arguments: argparse.Namespace, *, emulated: bool) -> DeviceProfile | None:
    """The profile to refine, looked up before anything is measured."""
    if arguments.refine is None:
        return None
    if emulated:
        raise UsageError("--refine goes without --as and --memory: rates are those of the whole machine")
    return refinable(arguments.refine)


def report_text(report: BenchReport) -> str:
    """One table, and under it what a reader has to know to trust it."""
    if not report.containers:
        lines = [f"{report.artifact}: nothing was measured"]
        return "\n".join([*lines, *(emulation_text(report.emulation) if report.emulation else [])])
    first = report.containers[0]
    prefill, decode = (rate.test if rate else ABSENT for rate in (first.prefill, first.decode))
    headers = [
        "format", "engine", f"{prefill} t/s", f"{decode} t/s", "first token", "cold",
        "p50", "p95", "p99", "load", "peak memory", "anonymous", "bandwidth",
    ]  # fmt: skip
    rows = [_row(speed) for speed in report.containers]
    lines = [format_table(headers, rows, right=set(range(2, len(headers)))), "", *_notes(report)]
    return "\n".join(lines)


def _row(speed: Speed) -> list[str]:
    tokens = speed.inter_token
    peak = speed.memory.after_prompt.peak_resident_bytes if speed.memory else None
    anonymous = speed.memory.after_prompt.anonymous_bytes if speed.memory else None
    return [
        speed.format,
        f"{speed.engine} {speed.engine_version or ''}".strip(),
        _rate(speed.prefill),
        _rate(speed.decode),
        _milliseconds(speed.ttft_warm_ms),
        _milliseconds(speed.ttft_cold_ms),
        *(
            _milliseconds(value)
            for value in ((tokens.p50_ms, tokens.p95_ms, tokens.p99_ms) if tokens else (None,) * 3)
        ),
        _milliseconds(speed.load_ms),
        ABSENT if peak is None else format_bytes(peak),
        ABSENT if anonymous is None else format_bytes(anonymous),
        ABSENT if speed.roofline is None else str(speed.roofline),
    ]


def _notes(report: BenchReport) -> list[str]:
    first = report.containers[0]
    environment = report.environment
    bandwidth = report.bandwidth_bytes_per_s
    measured = "unavailable" if bandwidth is None else f"{bandwidth / 1e9:.1f} GB/s"
    load = "unavailable" if environment.load_average is None else f"{environment.load_average:g}"
    notes = [
        f"{environment.cpu_model}, {first.threads} threads, context {first.context_length}, "
        f"{first.repetitions} repetitions; memory reads {measured}; load at the start {load}"
    ]
    noisy = [
        f"{speed.format} {rate.test} ({rate.variation:.0%})"
        for speed in report.containers
        for rate in (speed.prefill, speed.decode)
        if rate is not None and rate.noisy
    ]
    if noisy:
        notes.append(f"noisy, measure again on an idle machine: {', '.join(noisy)}")
    if report.draft is not None:
        notes.append(_draft_note(report.draft))
    if report.emulation is not None:
        notes += ["", *emulation_text(report.emulation)]
    return notes


def _draft_note(draft: DraftEntry) -> str:
    kept = (
        "not measured" if draft.acceptance_rate is None else f"{draft.acceptance_rate:.0%} of its proposals"
    )
    return f"without the draft in {draft.folder} (kept on text: {kept}); time it as an artifact of its own"


def _rate(rate: Rate | None) -> str:
    """As llama-bench prints it."""
    return ABSENT if rate is None else f"{rate.tokens_per_s:.2f} ± {rate.standard_deviation:.2f}"


def _milliseconds(value: float | None) -> str:
    if value is None:
        return ABSENT
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.3g} ms"
