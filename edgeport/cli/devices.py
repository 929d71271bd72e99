"""`edgeport devices`: list the profiles and tiers, show one profile, or probe this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeport.cli.detect_text import add_detect_arguments, detect
from edgeport.errors import UsageError
from edgeport.manifest import to_json
from edgeport.units import parse_bytes

if TYPE_CHECKING:
    from edgeport.devices.profile import DeviceProfile

DETECT = "detect"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help=f"show one device; `{DETECT}` probes this machine"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    _add_filters(parser)
    add_detect_arguments(parser)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which devices are listed")
    group.add_argument("--kind", metavar="NAME", help="of this kind: board, phone, laptop, gpu, ...")
    group.add_argument("--tier", metavar="NAME", help="of this tier: edge, workstation, server, ...")
    group.add_argument("--min-ram", metavar="SIZE", help="with at least this much memory installed: 8GiB")
    group.add_argument("--find", metavar="TEXT", help="whose name or description holds these words")


def run(arguments: argparse.Namespace) -> int:
    """Print what was asked for; 0, or 1 when no device passes the filters. A broken profile file and an unknown name raise UsageError."""
    if (arguments.save or arguments.engines) and arguments.name != DETECT:
        option = "--save" if arguments.save else "--engines"
        raise UsageError(f"{option} goes with `edgeport devices {DETECT}`")
    if arguments.name is None:
        return _list(arguments)
    if filters := _filters(arguments):
        raise UsageError(f"{', '.join(filters)}: for the list only, not with {arguments.name}")
    if arguments.name == DETECT:
        print(detect(arguments))
        return 0
    from edgeport.cli.devices_text import device_text
    from edgeport.devices.catalog import load_profile, profile_path

    profile = load_profile(arguments.name)
    print(_json(profile) if arguments.json else device_text(profile, profile_path(profile.name)))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    """The profiles that pass every filter; 1 when there are some and none passes."""
    from edgeport.cli.devices_text import list_text, tier_text
    from edgeport.devices.catalog import HOST, load_profile, names
    from edgeport.devices.profile import KINDS
    from edgeport.devices.tiers import TIER_NAMES, TIERS, tier_rank

    _require_known("--kind", arguments.kind, KINDS)
    _require_known("--tier", arguments.tier, TIER_NAMES)
    smallest = 0 if arguments.min_ram is None else parse_bytes(arguments.min_ram)
    every = [load_profile(name) for name in names() if name != HOST]
    chosen = [
        profile
        for profile in every
        if arguments.kind in (None, profile.kind)
        and arguments.tier in (None, profile.tier)
        and profile.ram_bytes >= smallest
        and _mentions(profile, arguments.find)
    ]
    chosen.sort(key=lambda profile: (KINDS.index(profile.kind), tier_rank(profile.tier), profile.ram_bytes))
    if arguments.json:
        print(_json({"profiles": chosen, "tiers": TIERS}))
    elif not chosen:
        print(f"none of {len(every)} devices passes these filters", file=sys.stderr)
    elif _filters(arguments):
        print(list_text(chosen))
    else:
        host = f"`{HOST}` is this machine, `edgeport devices {DETECT}` shows it."
        print("\n\n".join([list_text(chosen), tier_text(TIERS), host]))
    return 0 if chosen else 1


def _require_known(option: str, value: str | None, allowed: Sequence[str]) -> None:
    from edgeport.devices.profile_keys import nearest

    if value is not None and value not in allowed:
        raise UsageError(
            f"{option} {value} is unknown{nearest(value, allowed)}", hint=f"allowed: {', '.join(allowed)}"
        )


def _mentions(profile: DeviceProfile, text: str | None) -> bool:
    """Every word of `text` is somewhere in the name, the description or the GPU's name."""
    gpu = profile.gpu.name if profile.gpu else ""
    where = f"{profile.name} {profile.description} {gpu}".casefold()
    return all(word in where for word in (text or "").casefold().split())


def _filters(arguments: argparse.Namespace) -> list[str]:
    given = {
        "--kind": arguments.kind, "--tier": arguments.tier, "--min-ram": arguments.min_ram, "--find": arguments.find,
    }  # fmt: skip
    return [name for name, value in given.items() if value is not None]


def _json(value: object) -> str:
    return json.dumps(to_json(value), indent=2, ensure_ascii=False)
