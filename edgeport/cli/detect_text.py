"""`edgeport devices detect`: probe this machine, show what was seen, save a profile of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeport.errors import UsageError
from edgeport.manifest import to_json
from edgeport.table import format_table
from edgeport.units import format_bytes

if TYPE_CHECKING:
    from edgeport.cli.detect_engines import EngineRates
    from edgeport.devices.bandwidth import MemoryBandwidth
    from edgeport.devices.kernels import Fit
    from edgeport.devices.probe import HostFacts
    from edgeport.devices.profile import DeviceProfile
    from edgeport.runtimes.bench.compute import ComputeRates

LONGEST_SECONDS = 60.0


def add_detect_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("with detect")
    group.add_argument("--save", metavar="NAME", help="write a profile that --device NAME uses")
    group.add_argument("--force", action="store_true", help="with --save: replace a profile of the same name")
    group.add_argument(
        "--seconds", type=float, default=1.0, help="how long to measure the memory bandwidth (default 1)"
    )
    group.add_argument(
        "--engines",
        action="store_true",
        help="also time the kernels of each installed engine on random models, which makes predicted speeds precise (minutes)",
    )
    group.add_argument("--size", metavar="SIZE", help=argparse.SUPPRESS)


def detect(arguments: argparse.Namespace) -> str:
    """What to print. Raises UsageError for bad settings and a taken name, MissingExtra for --engines without engines."""
    from edgeport.devices.probe import host_profile, measure_host, read_host
    from edgeport.runtimes.bench.compute import measure_compute

    _check(arguments)
    facts = read_host()
    bandwidth = measure_host(facts, seconds=arguments.seconds)
    compute = measure_compute(facts.threads, seconds=min(0.3, arguments.seconds))
    profile = host_profile(facts, bandwidth, int8_ops_per_s=compute.int8_ops_per_s)
    engines = _engines(arguments, facts) if arguments.engines else None
    if engines is not None:
        profile = replace(profile, kernels=tuple(fit.kernel for fit in engines.fits))
    saved = _save(arguments, profile, bandwidth)
    if arguments.json:
        document = {
            "profile": profile, "host": facts, "bandwidth": bandwidth, "compute": compute,
            "engines": engines, "saved": saved,
        }  # fmt: skip
        return json.dumps(to_json(document), indent=2, ensure_ascii=False)
    return detect_text(profile, facts, bandwidth, compute, engines, saved)


def detect_text(
    profile: DeviceProfile,
    facts: HostFacts,
    bandwidth: MemoryBandwidth,
    compute: ComputeRates,
    engines: EngineRates | None,
    saved: str | None,
) -> str:
    from edgeport.cli.devices_text import field_rows

    parts = [
        format_table(["field", "value"], field_rows(to_json(profile))),
        f"read bandwidth: {points_text(bandwidth)} over {format_bytes(bandwidth.buffer_bytes)}",
        "\n".join([*_compute_lines(compute), *surroundings(facts)]),
    ]
    if engines is not None:
        parts.append(engines_text(engines, facts.cpu.last_level_cache_bytes))
    if saved:
        parts.append(f"saved: {saved}")
    return "\n\n".join(part for part in parts if part)


def surroundings(facts: HostFacts) -> list[str]:
    """What is not the machine's own: containers, quotas, limits. One line each, none on bare metal."""
    lines = []
    if facts.container:
        lines.append(f"inside a container ({facts.container})")
    if facts.virtual:
        lines.append("on a virtual machine: others may use the same caches and memory")
    limits = facts.limits
    if limits.cpus is not None:
        lines.append(f"the control group allows {limits.cpus:g} of {facts.cpu.cores} cores")
    if limits.memory_bytes is not None:
        lines.append(f"the control group allows {format_bytes(limits.memory_bytes)} of memory")
    return lines


def engines_text(engines: EngineRates, last_level_cache_bytes: int | None) -> str:
    headers = [
        "engine",
        "bits",
        "decode",
        "cache",
        "products",
        "per layer",
        "per token",
        "prompts",
        "attention",
        "largest error",
    ]
    rows = [_fit_row(fit) for fit in engines.fits]
    lines = [format_table(headers, rows, right=range(1, len(headers)))] if rows else []
    for item in engines.absent:
        which = item.engine if item.bits is None else f"{item.engine}, INT{item.bits}"
        lines.append(f"not measured: {which}: {item.reason}")
    if engines.weights_bytes < (last_level_cache_bytes or 0):
        lines.append("the models fit in the last-level cache: larger ones will be slower than predicted")
    return "\n".join(lines)


def _fit_row(fit: Fit) -> list[str]:
    kernel = fit.kernel
    cache, prefill = kernel.cache_bandwidth_bytes_per_s, kernel.prefill_ops_per_s
    attention, products = kernel.attention_ops_per_s, kernel.decode_attention_ops_per_s
    errors = [error for error in (fit.decode_residual, fit.prompt_residual) if error is not None]
    return [
        kernel.engine,
        str(kernel.bits),
        f"{kernel.decode_bandwidth_bytes_per_s / 1e9:.2f} GB/s",
        "-" if cache is None else f"{cache / 1e9:.2f} GB/s",
        "-" if products is None else f"{products / 1e9:.0f} GOPS",
        f"{kernel.seconds_per_layer * 1e6:.1f} us",
        f"{kernel.seconds_per_token * 1e6:.0f} us",
        "-" if prefill is None else f"{prefill / 1e9:.0f} GOPS",
        "-" if attention is None else f"{attention / 1e9:.0f} GOPS",
        " / ".join(f"{error:.0%}" for error in errors),
    ]


def points_text(bandwidth: MemoryBandwidth) -> str:
    return ", ".join(
        f"{point.threads} thread{'s' if point.threads > 1 else ''} {point.read_bytes_per_s / 1e9:.1f} GB/s"
        for point in bandwidth.points
    )


def _compute_lines(compute: ComputeRates) -> Sequence[str]:
    lines = []
    if compute.float32_flops_per_s is not None:
        lines.append(f"float32 matrices: {compute.float32_flops_per_s / 1e9:.0f} GFLOPS (numpy)")
    if compute.int8_ops_per_s is not None:
        lines.append(f"int8 matrices: {compute.int8_ops_per_s / 1e9:.0f} GOPS (ONNX Runtime)")
    return [*lines, *(f"not measured: {reason}" for reason in compute.missing)]


def _check(arguments: argparse.Namespace) -> None:
    """Before the first second is spent."""
    from edgeport.devices.catalog import check_new_name

    if not 0 < arguments.seconds <= LONGEST_SECONDS:
        raise UsageError(f"--seconds must be between 0 and {LONGEST_SECONDS:g}, not {arguments.seconds:g}")
    if arguments.size is not None and not arguments.engines:
        raise UsageError("--size goes with --engines")
    if arguments.save:
        check_new_name(arguments.save, overwrite=arguments.force)


def _engines(arguments: argparse.Namespace, facts: HostFacts) -> EngineRates:
    from edgeport.cli.detect_engines import EngineProbe, probe_engines, usual_size
    from edgeport.progress import Progress
    from edgeport.units import parse_bytes

    size = usual_size(facts.cpu.last_level_cache_bytes, facts.available_bytes)
    if arguments.size is not None:
        size = parse_bytes(arguments.size)
    return probe_engines(EngineProbe(size, facts.threads), progress=Progress())


def _save(arguments: argparse.Namespace, profile: DeviceProfile, bandwidth: MemoryBandwidth) -> str | None:
    from edgeport.devices.catalog import save_profile

    if not arguments.save:
        return None
    command = "edgeport devices detect" + (" --engines" if arguments.engines else "")
    comment = f"Probed by `{command}`; bandwidth with {points_text(bandwidth)}."
    return str(save_profile(profile, arguments.save, comment=comment, overwrite=arguments.force))
