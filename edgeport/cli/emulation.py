"""`--as DEVICE` and `--memory SIZE` of bench and run: the arguments, and what a bench under them says."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from edgeport.table import format_table

if TYPE_CHECKING:
    from edgeport.devices.profile import DeviceProfile
    from edgeport.runtimes.bench.scaled import EmulationReport, ScaledRate
    from edgeport.runtimes.emulate import Emulation

ABSENT = "-"


def add_emulation_arguments(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--as",
        dest="as_device",
        metavar="DEVICE",
        help="give the engine that device's cores and usable memory (docs/emulation.md)",
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="memory the engine may hold, e.g. 1GB (default: the device's, or no limit)",
    )


def emulation_of(arguments: argparse.Namespace) -> tuple[Emulation | None, DeviceProfile | None]:
    """What was asked for; (None, None) for neither option."""
    if arguments.as_device is None and arguments.memory is None:
        return None, None
    from edgeport.devices.catalog import load_profile
    from edgeport.runtimes.emulate import emulate
    from edgeport.units import parse_bytes

    profile = load_profile(arguments.as_device) if arguments.as_device is not None else None
    limit = parse_bytes(arguments.memory) if arguments.memory is not None else None
    return emulate(profile, memory_bytes=limit), profile


def emulation_text(report: EmulationReport) -> list[str]:
    """The scaled rates, where every figure comes from, and where this machine falls short."""
    lines = [f"as {report.emulation}"]
    if report.containers:
        rows = [[item.format, _scaled(item.decode), _scaled(item.prefill)] for item in report.containers]
        lines += [format_table(["format", "decode t/s there", "prefill t/s there"], rows, right={1, 2})]
        lines += [f"{item.format}: {item.basis}" for item in report.containers]
    lines.append("; ".join(f"{item.figure}: {item.origin}" for item in report.figures))
    return [*lines, *report.emulation.notes, "not written into the manifest"]


def _scaled(rate: ScaledRate | None) -> str:
    if rate is None:
        return ABSENT
    return f"{rate.tokens_per_s:.1f} ({rate.low_tokens_per_s:.1f} to {rate.high_tokens_per_s:.1f})"
