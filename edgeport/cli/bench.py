"""`edgeport bench DIR`: speed and memory of each container on this machine, by llama-bench's definitions."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.cli.emulation import add_emulation_arguments, emulation_of
from edgeport.cli.refine import refinable, refine_saved, refined_lines
from edgeport.errors import UsageError
from edgeport.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from edgeport.devices.profile import DeviceProfile
    from edgeport.runtimes.bench.measure import Workload
    from edgeport.runtimes.bench.result_line import ResultLine
    from edgeport.runtimes.bench.run import BenchReport
    from edgeport.runtimes.bench.sweep import Sweep

REPETITIONS = 5
OUTPUTS = ("table", "md", "csv", "jsonl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "pp512 is the rate of reading a prompt of 512 tokens, tg128 of writing 128 tokens one by one (docs/measure.md).\n"
        "LIST is a number, 128,512 or a range as llama-bench takes them: 1-8, 0-4096+1024, 1-64*2. More than one value makes a\n"
        "sweep, one row for each combination.\n"
        "The figures also go into an artifact's manifest, from where `edgeport report` takes them; those of a sweep, a\n"
        "comparison, --as and --memory do not."
    )
    parser.add_argument(
        "directory",
        metavar="DIR",
        type=Path,
        nargs="?",
        help="an artifact, or a model file or folder of any origin",
    )
    parser.add_argument(
        "--format",
        action="append",
        metavar="NAME",
        help="only this container; again or with commas for more (default: all that have an engine here)",
    )
    _add_workload_arguments(parser)
    _add_task_arguments(parser)
    add_emulation_arguments(parser)
    parser.add_argument(
        "--refine",
        metavar="NAME",
        help="correct the kernel rates of this saved device profile by what was measured",
    )
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="predict by this device profile (default: one saved on this machine, else its measured bandwidth)",
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out the memory run, the cold load and energy"
    )
    parser.add_argument(
        "--no-tuned", action="store_true", help="not with the settings `edgeport tune` found for this machine"
    )
    parser.add_argument(
        "-o",
        "--output",
        choices=OUTPUTS,
        default="table",
        help="csv and jsonl have llama-bench's fields (table)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document; `results` is llama-bench's"
    )


def _add_workload_arguments(parser: argparse.ArgumentParser) -> None:
    lists = parser.add_argument_group("what is measured")
    lists.add_argument("-p", "--n-prompt", action="append", metavar="LIST", help="prompt tokens (512)")
    lists.add_argument("-n", "--n-gen", action="append", metavar="LIST", help="generated tokens (128)")
    lists.add_argument(
        "-d", "--n-depth", action="append", metavar="LIST", help="tokens in the cache before each test (0)"
    )
    lists.add_argument(
        "-t",
        "--threads",
        action="append",
        metavar="LIST",
        help="default: the physical cores within the quota",
    )
    lists.add_argument(
        "-c",
        "--context",
        action="append",
        metavar="LIST",
        help="tokens the cache is opened for (what the test needs)",
    )
    lists.add_argument(
        "--batch",
        action="append",
        metavar="LIST",
        help="sequences at once, where an engine's session can (1)",
    )
    lists.add_argument(
        "-r", "--repetitions", type=int, metavar="N", help="after a warm-up (5); blocks of --compare (10)"
    )


def _add_task_arguments(parser: argparse.ArgumentParser) -> None:
    tasks = parser.add_argument_group("instead of measuring each container once")
    tasks.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two artifact folders, formats or settings (threads=1) in turns; a ratio with an interval",
    )
    tasks.add_argument(
        "--soak", metavar="TIME", help="write text for so long (10m) and watch memory, time and answers"
    )
    tasks.add_argument(
        "--soak-growth", metavar="SIZE", help="growth of memory in an hour that a soak allows (64MiB)"
    )
    tasks.add_argument(
        "--import",
        dest="imported",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="results of llama-bench, onnxruntime-genai or llm_bench into the same table; without DIR, only these",
    )


def run(arguments: argparse.Namespace) -> int:
    """0; 1 when an engine failed, a container does not fit what is emulated, or a soak found something."""
    from edgeport.cli.bench_compare import run_compare_command
    from edgeport.cli.bench_soak import run_soak_command
    from edgeport.cli.bench_sweep import imported, print_results, run_sweep_command, sweep_of

    _check(arguments)
    formats = [name for item in arguments.format or () for name in item.split(",") if name]
    others = imported(arguments.imported or ())
    if arguments.directory is None and arguments.compare is None:
        print_results(others, arguments)
        return 0
    sweep = sweep_of(arguments)
    if arguments.compare is not None or arguments.soak is not None:
        if not sweep.is_single or len(formats) > 1:
            raise UsageError("--compare and --soak take one value of each option, not a list")
        threads = sweep.threads[0] if arguments.threads else None
        name = formats[0] if formats else None
        if arguments.compare is not None:
            return run_compare_command(arguments, _workload(arguments, sweep), threads, name)
        given = bool(arguments.n_prompt or arguments.n_gen)
        return run_soak_command(arguments, _workload(arguments, sweep) if given else None, threads, name)
    if not sweep.is_single:
        _check_sweep(arguments)
        return run_sweep_command(arguments, sweep, formats, others, repetitions=_repetitions(arguments))
    return _measure(arguments, sweep, formats, others)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what does not go together before anything is opened."""
    if arguments.compare is not None and arguments.soak is not None:
        raise UsageError("--compare and --soak are two things", hint="run them one after the other")
    needs_folder = arguments.compare is None and (arguments.soak is not None or not arguments.imported)
    if arguments.directory is None and needs_folder:
        raise UsageError("no artifact folder is named", hint="edgeport bench DIR")
    if arguments.soak_growth is not None and arguments.soak is None:
        raise UsageError("--soak-growth goes with --soak")
    alone = arguments.compare is not None or arguments.soak is not None
    emulated = arguments.as_device is not None or arguments.memory is not None
    beside = (
        ("--as and --memory", emulated),
        ("--refine", arguments.refine),
        ("--profile", arguments.profile),
        ("--import", arguments.imported),
    )
    for name, given in beside:
        if alone and given:
            raise UsageError(f"{name} goes without --compare and --soak")
    if arguments.json and arguments.output != "table":
        raise UsageError("--json is one document, --output another", hint="take one of them")
    if alone and arguments.output != "table":
        raise UsageError("--output goes without --compare and --soak", hint="they have --json")


def _check_sweep(arguments: argparse.Namespace) -> None:
    """A sweep measures this machine and leaves no record."""
    for name in ("as_device", "memory", "refine", "profile"):
        if getattr(arguments, name) is not None:
            option = "--as" if name == "as_device" else f"--{name}"
            raise UsageError(
                f"{option} goes without lists, --context and --batch", hint="give one value each"
            )


def _workload(arguments: argparse.Namespace, sweep: Sweep) -> Workload:
    from edgeport.runtimes.bench.measure import Workload

    return Workload(
        n_prompt=sweep.prompts[0],
        n_gen=sweep.generations[0],
        n_depth=sweep.depths[0],
        repetitions=_repetitions(arguments),
    )


def _repetitions(arguments: argparse.Namespace) -> int:
    given: int | None = arguments.repetitions
    return REPETITIONS if given is None else given


def _measure(
    arguments: argparse.Namespace, sweep: Sweep, formats: Sequence[str], others: Sequence[ResultLine]
) -> int:
    from edgeport.devices.catalog import load_profile
    from edgeport.progress import Progress
    from edgeport.runtimes.bench.run import BenchOptions, benchmark, record

    emulation, device = emulation_of(arguments)
    saved = _saved_profile(arguments, emulated=emulation is not None)
    options = BenchOptions(
        workload=_workload(arguments, sweep),
        formats=tuple(formats) or None,
        threads=sweep.threads[0] if arguments.threads else None,
        memory=not arguments.no_memory,
        emulation=emulation,
        device=device,
        profile=load_profile(arguments.profile) if arguments.profile else None,
        tuned=not arguments.no_tuned and saved is None,
    )
    report = benchmark(arguments.directory, options, progress=Progress())
    _print(report, arguments, others)
    for item in report.skipped:
        print(f"not measured: {item.format}: {item.reason}", file=sys.stderr)
    for item in report.failed:
        print(f"failed: {item.format}: {item.reason}", file=sys.stderr)
    for item in report.does_not_fit:
        print(f"{item.format} {item.reason}", file=sys.stderr)
    has_manifest = (arguments.directory / MANIFEST_NAME).is_file()
    # figures of this machine are what a manifest holds
    if report.containers and report.emulation is None and has_manifest:
        record(arguments.directory, report)
    if saved is not None:
        for line in refined_lines(refine_saved(saved, arguments.directory, report)):
            print(line, file=sys.stderr)
    return 1 if report.failed or report.does_not_fit else 0


def _print(report: BenchReport, arguments: argparse.Namespace, others: Sequence[ResultLine]) -> None:
    """The report in the form that was asked for; rows of other tools make it a table of tests."""
    from edgeport.cli.bench_text import report_text
    from edgeport.manifest import to_json
    from edgeport.runtimes.bench.result_line import result_line
    from edgeport.runtimes.bench.result_output import result_text

    if arguments.json:
        document = to_json(report) | ({"imported": to_json(list(others))} if others else {})
        print(json.dumps(document, indent=2))
        return
    lines = [*map(result_line, report.results), *others]
    if arguments.output != "table":
        print(result_text(lines, arguments.output))
        return
    print(report_text(report))
    if others:
        print("\n" + result_text(lines, "table"))


def _saved_profile(arguments: argparse.Namespace, *, emulated: bool) -> DeviceProfile | None:
    """The profile to refine, looked up before anything is measured."""
    if arguments.refine is None:
        return None
    if emulated:
        raise UsageError("--refine goes without --as and --memory: rates are those of the whole machine")
    if not (arguments.directory / MANIFEST_NAME).is_file():
        raise UsageError("--refine needs an artifact: of other models nobody knows what a rate belongs to")
    return refinable(arguments.refine)
