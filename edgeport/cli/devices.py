"""`edgeport devices`: list the profiles and tiers, show one profile, or probe this machine."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from edgeport.errors import UsageError
from edgeport.manifest import to_json
from edgeport.table import format_table
from edgeport.units import format_bytes, format_count

if TYPE_CHECKING:
    from edgeport.devices.bandwidth import MemoryBandwidth
    from edgeport.devices.profile import DeviceProfile
    from edgeport.devices.tiers import Tier

DETECT = "detect"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help=f"show one device; `{DETECT}` probes this machine"
    )
    parser.add_argument(
        "--save", metavar="NAME", help=f"with `{DETECT}`: write a profile that --device NAME uses"
    )
    parser.add_argument(
        "--force", action="store_true", help="with --save: replace a profile of the same name"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="with `detect`: how long to measure (default 1)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Print what was asked for; 0. A broken profile file and an unknown name raise UsageError."""
    if arguments.save and arguments.name != DETECT:
        raise UsageError("--save goes with `edgeport devices detect`")
    if arguments.name is None:
        print(_all(arguments.json))
    elif arguments.name == DETECT:
        print(_detect(arguments))
    else:
        from edgeport.devices.catalog import load_profile

        profile = load_profile(arguments.name)
        print(_json(profile) if arguments.json else _one(profile))
    return 0


def _all(as_json: bool) -> str:
    from edgeport.devices.catalog import HOST, load_profile, names
    from edgeport.devices.tiers import TIERS, tier_rank

    profiles = [load_profile(name) for name in names() if name != HOST]
    profiles.sort(key=lambda profile: (tier_rank(profile.tier), profile.ram_bytes))
    if as_json:
        return _json({"profiles": profiles, "tiers": TIERS})
    tables = [_profile_table(profiles), _tier_table(TIERS)]
    return "\n\n".join([*tables, f"`{HOST}` is this machine, `edgeport devices {DETECT}` shows it."])


def _profile_table(profiles: list[DeviceProfile]) -> str:
    rows = [
        [
            profile.name,
            profile.tier,
            str(profile.cores),
            format_bytes(profile.usable_ram_bytes),
            f"{profile.memory_bandwidth_bytes_per_s / 1e9:.0f} GB/s",
            f"{profile.gpu.count} x {profile.gpu.name}" if profile.gpu else "-",
            profile.recipe,
            " ".join(profile.formats),
        ]
        for profile in profiles
    ]
    headers = ["device", "tier", "cores", "usable RAM", "bandwidth", "GPU", "recipe", "formats"]
    return format_table(headers, rows, right=(2, 3, 4))


def _tier_table(tiers: tuple[Tier, ...]) -> str:
    rows = []
    smallest = "0"
    for tier in tiers:
        largest = format_count(tier.parameter_limit) if tier.parameter_limit else ""
        size = f"{smallest} to {largest}" if largest else f"{smallest} and more"
        rows.append([tier.name, size, tier.hardware, tier.precision, tier.size_ratio])
        smallest = largest
    return format_table(["tier", "parameters", "hardware", "precision", "smaller by"], rows)


def _one(profile: DeviceProfile) -> str:
    from edgeport.devices.catalog import profile_path

    return format_table(
        ["field", "value"], [*_rows(to_json(profile)), ["file", str(profile_path(profile.name) or "-")]]
    )


def _rows(values: dict[str, object], prefix: str = "") -> list[list[str]]:
    rows: list[list[str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _rows(value, f"{name}.")
        else:
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


def _detect(arguments: argparse.Namespace) -> str:
    from edgeport.devices.catalog import save_profile
    from edgeport.devices.probe import host_profile, measure_host, read_host

    if not 0 < arguments.seconds <= 60:
        raise UsageError(f"--seconds must be between 0 and 60, not {arguments.seconds:g}")
    facts = read_host()
    bandwidth = measure_host(facts, seconds=arguments.seconds)
    profile = host_profile(facts, bandwidth)
    saved = None
    if arguments.save:
        comment = f"Probed by `edgeport devices detect`; bandwidth with {_points(bandwidth)}."
        saved = save_profile(profile, arguments.save, comment=comment, overwrite=arguments.force)
    if arguments.json:
        path = None if saved is None else str(saved)
        return _json({"profile": profile, "host": facts, "bandwidth": bandwidth, "saved": path})
    lines = [
        format_table(["field", "value"], _rows(to_json(profile))),
        f"read bandwidth: {_points(bandwidth)} over {format_bytes(bandwidth.buffer_bytes)}",
    ]
    quota = facts.limits.cpus
    if quota is not None:
        lines.append(f"the control group allows {quota:g} of {facts.cpu.cores} cores")
    if saved:
        lines.append(f"saved: {saved}")
    return "\n\n".join(lines)


def _points(bandwidth: MemoryBandwidth) -> str:
    return ", ".join(
        f"{point.threads} thread{'s' if point.threads > 1 else ''} {point.read_bytes_per_s / 1e9:.1f} GB/s"
        for point in bandwidth.points
    )


def _json(value: object) -> str:
    return json.dumps(to_json(value), indent=2, ensure_ascii=False)
