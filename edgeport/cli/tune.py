"""`edgeport tune DIR`: measure which settings are fastest for a container on this machine, and remember them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.errors import UsageError
from edgeport.manifest import to_json
from edgeport.progress import Progress
from edgeport.table import format_table

if TYPE_CHECKING:
    from edgeport.runtimes.container import Container
    from edgeport.runtimes.tuning.store import Tried, Tuned

ABSENT = "-"
ALL = "all"
COLUMNS = ("setting", "rate", "95 %", "divergence", "same top token", "verdict")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", type=Path, metavar="DIR", help="an artifact folder, a container or a model file"
    )
    parser.add_argument(
        "--format",
        action="append",
        default=[],
        metavar="NAME",
        help="a container by its format, repeat for more, or `all` (default: the one that load takes here)",
    )
    parser.add_argument(
        "--for",
        dest="objective",
        choices=("decode", "prefill", "both"),
        default="both",
        help="what has to be fast: one token after the other, prompts, or both alike (both)",
    )
    parser.add_argument("--seconds", type=float, default=50.0, metavar="N", help="for each container (50)")
    parser.add_argument(
        "--context", type=int, metavar="TOKENS", help="what the cache is opened for (1024, or the model's)"
    )
    parser.add_argument(
        "--depth", type=int, default=256, metavar="TOKENS", help="tokens in the cache while decoding (256)"
    )
    parser.add_argument(
        "--allow-coarser",
        action="store_true",
        help="also try a cache or activations of fewer bits; what that does to the logits is shown",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--show", action="store_true", help="print what is remembered, measure nothing")
    action.add_argument("--forget", action="store_true", help="remember nothing about this artifact here")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def run(arguments: argparse.Namespace) -> int:
    """0, also where the adapters' own choice is the best; 1 when an engine failed."""
    chosen = _chosen(arguments)
    if arguments.forget:
        return _forget(chosen, arguments)
    found = list(_shown(chosen) if arguments.show else _tuned(chosen, arguments))
    if arguments.json:
        print(json.dumps(to_json(found), indent=2))
    else:
        print("\n\n".join(tuned_text(tuned) for tuned in found) or "nothing was tuned for this artifact here")
    return 0


def _chosen(arguments: argparse.Namespace) -> list[Container]:
    """What was named; else all for --show and --forget, and the one that load would take for tuning, which takes its time."""
    from edgeport.runtimes.artifact import choose
    from edgeport.runtimes.container import find_containers
    from edgeport.runtimes.tuning.tune import choose_tunable

    names = [name for name in arguments.format if name != ALL]
    tunable = choose_tunable(find_containers(arguments.path), names)
    if arguments.format or arguments.show or arguments.forget or len(tunable) == 1:
        return tunable
    best, reason = choose(tunable, None)
    if not arguments.quiet:
        print(f"edgeport: {best.format}, {reason}; `--format all` for the others", file=sys.stderr)
    return [best]


def _tuned(chosen: Sequence[Container], arguments: argparse.Namespace) -> Iterator[Tuned]:
    from edgeport.runtimes.tuning.store import remember
    from edgeport.runtimes.tuning.tune import TuneOptions, tune

    if arguments.depth < 0:
        raise UsageError(f"--depth is {arguments.depth}", hint="it must be 0 or more")
    options = TuneOptions(
        objective=arguments.objective,
        seconds=arguments.seconds,
        context_length=arguments.context,
        depth=arguments.depth,
        allow_coarser=arguments.allow_coarser,
    )
    for container in chosen:
        tuned = tune(container, options, progress=Progress(quiet=arguments.quiet))
        if not remember(container, tuned):
            print("edgeport: the cache folder cannot be written; nothing is remembered", file=sys.stderr)
        yield tuned


def _shown(chosen: Sequence[Container]) -> Iterator[Tuned]:
    from edgeport.runtimes.tuning.store import recall

    yield from (tuned for container in chosen if (tuned := recall(container)) is not None)


def _forget(chosen: Sequence[Container], arguments: argparse.Namespace) -> int:
    from edgeport.runtimes.tuning.store import forget

    forgotten = [container.format for container in chosen if forget(container)]
    if arguments.json:
        print(json.dumps({"forgotten": forgotten}, indent=2))
    else:
        print(f"forgotten: {', '.join(forgotten)}" if forgotten else "there was nothing to forget")
    return 0


def tuned_text(tuned: Tuned) -> str:
    """What was tried, then what is kept."""
    host = tuned.host
    lines = [
        f"{tuned.artifact}, {tuned.format}, for {tuned.objective}: {host.cpu_model}, {host.cores} cores,"
        f" {host.engine_version}"
    ]
    if tuned.tried:
        lines += [format_table(COLUMNS, [_row(item) for item in tuned.tried], right=range(1, 5))]
    if tuned.not_tried:
        lines += [f"{tuned.not_tried} more were not tried: the time was up (--seconds)"]
    if tuned.settings:
        lines += [
            f"kept: {tuned.engine_settings()}, {tuned.gain:.3f} times the adapter's own choice"
            f" ({tuned.low:.3f}-{tuned.high:.3f})"
        ]
    else:
        lines += ["kept: the adapter's own choice; nothing was faster beyond the noise"]
    return "\n".join(lines)


def _row(item: Tried) -> list[str]:
    from edgeport.runtimes.engine_settings import settings_from

    interval = f"{item.low:.3f}-{item.high:.3f}" if item.low is not None and item.high is not None else ABSENT
    return [
        str(settings_from(item.changes)),
        ABSENT if item.ratio is None else f"{item.ratio:.3f}",
        interval,
        ABSENT if item.mean_kl_divergence is None else f"{item.mean_kl_divergence:.2g}",
        ABSENT if item.same_top1 is None else f"{item.same_top1:.0%}",
        item.verdict,
    ]
