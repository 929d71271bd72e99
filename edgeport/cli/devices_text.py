"""Device profiles as text: the list by kind, the tiers, one device with its published speeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeport.devices.profile import KINDS
from edgeport.manifest import to_json
from edgeport.table import format_table
from edgeport.units import format_bytes, format_count

if TYPE_CHECKING:
    from pathlib import Path

    from edgeport.devices.profile import DeviceProfile, GpuPart, KernelRates, PublishedSpeed
    from edgeport.devices.tiers import Tier

HEADERS = ("device", "tier", "cores", "RAM", "usable", "bandwidth", "GPU", "recipe", "formats")


def list_text(profiles: Sequence[DeviceProfile]) -> str:
    """One table per kind that has a device, the smallest kind first."""
    sections = []
    for kind in KINDS:
        rows = [_list_row(profile) for profile in profiles if profile.kind == kind]
        if rows:
            sections.append(f"{kind}\n\n{format_table(HEADERS, rows, right=(2, 3, 4, 5))}")
    return "\n\n".join(sections)


def _list_row(profile: DeviceProfile) -> list[str]:
    return [
        profile.name,
        profile.tier,
        str(profile.cores),
        format_bytes(profile.ram_bytes),
        format_bytes(profile.usable_ram_bytes),
        f"{profile.memory_bandwidth_bytes_per_s / 1e9:.0f} GB/s",
        _gpu(profile.gpu),
        profile.recipe,
        " ".join(profile.formats),
    ]


def _gpu(gpu: GpuPart | None) -> str:
    if gpu is None:
        return "-"
    memory = "in RAM" if gpu.shares_ram else format_bytes(gpu.memory_bytes)
    return f"{gpu.count} x {gpu.name}, {memory}"


def tier_text(tiers: Sequence[Tier]) -> str:
    rows = []
    smallest = "0"
    for tier in tiers:
        largest = format_count(tier.parameter_limit) if tier.parameter_limit else ""
        size = f"{smallest} to {largest}" if largest else f"{smallest} and more"
        rows.append([tier.name, size, tier.hardware, tier.precision, tier.size_ratio])
        smallest = largest
    return format_table(["tier", "parameters", "hardware", "precision", "smaller by"], rows)


def device_text(profile: DeviceProfile, path: Path | None) -> str:
    """Every field, the measured kernel rates, and what others published for the device, with the sources."""
    fields = format_table(["field", "value"], [*field_rows(to_json(profile)), ["file", str(path or "-")]])
    parts = [fields]
    if profile.kernels:
        parts.append(_kernel_table(profile.kernels))
    if profile.published:
        parts.append(_published_table(profile.published))
    return "\n\n".join(parts)


def field_rows(values: dict[str, object], prefix: str = "") -> list[list[str]]:
    """Name and readable value of every field; lists of tables are left out, they have tables of their own."""
    rows: list[list[str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += field_rows(value, f"{name}.")
        elif name not in ("kernels", "published"):
            rows.append([prefix + name, _show(name, value)])
    return rows


def _show(name: str, value: object) -> str:
    """A field's value in the unit its name promises, readable."""
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, (int, float)):
        if name.endswith("bytes_per_s"):
            return f"{value / 1e9:.4g} GB/s"
        if name.endswith(("ops_per_s", "flops_per_s")):
            return f"{value / 1e12:.3g} T{'FLOPS' if 'flops' in name else 'OPS'}"
        if name.endswith("_bytes"):
            return format_bytes(value)
    return str(value)


def _kernel_table(kernels: Sequence[KernelRates]) -> str:
    rows = [
        [
            rates.engine,
            str(rates.bits),
            _show("bytes_per_s", rates.decode_bandwidth_bytes_per_s),
            _show("bytes_per_s", rates.cache_bandwidth_bytes_per_s),
            f"{rates.seconds_per_layer * 1e6:.3g} us",
            f"{rates.seconds_per_token * 1e6:.3g} us",
            _show("ops_per_s", rates.prefill_ops_per_s),
            _show("ops_per_s", rates.attention_ops_per_s),
            rates.source or "-",
        ]
        for rates in kernels
    ]
    headers = [
        "measured", "bits", "weights", "KV cache", "per layer", "per token", "prefill", "attention", "source",
    ]  # fmt: skip
    return format_table(headers, rows, right=(1, 2, 3, 4, 5, 6, 7))


def _published_table(published: Sequence[PublishedSpeed]) -> str:
    rows = [
        [
            speed.model,
            speed.scheme,
            f"{speed.engine}{' on GPU' if speed.on_gpu else ''}",
            _rate(speed.decode_tokens_per_s),
            _rate(speed.prefill_tokens_per_s),
            "no, used to make a figure" if speed.used else "yes",
            speed.source,
            speed.note or "-",
        ]
        for speed in published
    ]
    headers = [
        "published",
        "scheme",
        "engine",
        "decode t/s",
        "prefill t/s",
        "tests predictions",
        "source",
        "note",
    ]
    return format_table(headers, rows, right=(3, 4))


def _rate(tokens_per_s: float | None) -> str:
    return "-" if tokens_per_s is None else f"{tokens_per_s:.4g}"
