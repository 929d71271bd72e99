"""`edgeport plan`: what of a model fits which device, how fast, and what would make it fit; without a model, what fits a device."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.errors import UsageError
from edgeport.manifest import to_json

if TYPE_CHECKING:
    from edgeport.devices.plan import Wish
    from edgeport.devices.plan_containers import Container
    from edgeport.devices.plan_model import ModelPlan
    from edgeport.devices.plan_row import PlanRow
    from edgeport.devices.profile import DeviceProfile

SORTS = ("memory", "decode", "prefill", "size", "name")
EXIT_NO = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a folder, a config.json, an artifact, a .gguf, a known model such as llama-3.1-8b, or a hub id; "
        "without it: which sizes fit each --device",
    )
    parser.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="NAME",
        help="may be repeated; `host` is this machine (default: every known device, the best container of each)",
    )
    parser.add_argument("--all", action="store_true", help="every container of every device")
    _add_wish(parser)
    _add_choice(parser)
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="also write one page with a roofline and memory bars"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _add_wish(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is planned")
    group.add_argument(
        "--format", action="append", default=[], metavar="NAME", help="gguf, onnx, openvino or safetensors"
    )
    group.add_argument(
        "--precision", action="append", default=[], metavar="NAME", help="for example int4, int8, f16, q4_k_m"
    )
    group.add_argument(
        "--context", type=int, metavar="TOKENS", help="of each sequence (default: the device's)"
    )
    group.add_argument("--batch", type=int, default=1, metavar="N", help="sequences at once (default: 1)")
    group.add_argument(
        "--kv-bits", type=int, metavar="BITS", help="of the KV cache's values (default: the engine's)"
    )


def _add_choice(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is shown")
    group.add_argument("--tier", metavar="NAME", help="devices of this tier: edge, workstation, server, ...")
    group.add_argument("--kind", metavar="NAME", help="devices of this kind: board, phone, laptop, gpu, ...")
    group.add_argument(
        "--sort", choices=SORTS, help="default: as asked with --device, else by tier and memory"
    )
    group.add_argument("--fits", action="store_true", help="only what fits as it is")
    group.add_argument(
        "--min-speed",
        type=float,
        metavar="TOKENS/S",
        help="only what decodes at least this fast by prediction",
    )


def run(arguments: argparse.Namespace) -> int:
    """0 when it fits one of the devices, 1 when none; everything else raises."""
    from edgeport.devices.plan_choice import choose_profiles

    profiles = choose_profiles(arguments.device, tier=arguments.tier, kind=arguments.kind)
    if arguments.model is None:
        return _sizes(arguments, profiles)
    return _model(arguments, profiles)


def _model(arguments: argparse.Namespace, profiles: Sequence[DeviceProfile]) -> int:
    from edgeport.cli.plan_text import plan_text
    from edgeport.devices.plan_choice import Filter, choose_rows
    from edgeport.devices.plan_containers import open_model
    from edgeport.devices.plan_model import plan_model
    from edgeport.devices.probe import available_threads

    shape, containers = open_model(arguments.model)
    wish = _wish(arguments, containers)
    plan = plan_model(shape, profiles, wish, export_threads=available_threads())
    asked = Filter(arguments.sort, arguments.fits, arguments.min_speed)
    rows = choose_rows([row for device in plan.devices for row in device.rows], asked)
    if arguments.html is not None:
        from edgeport.cli.plan_page import write_page

        path = write_page(plan, rows, profiles, arguments.html)
        print(f"wrote {path}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(_document(plan, rows), indent=2, ensure_ascii=False))
    else:
        print(plan_text(plan, rows, details=bool(arguments.device)))
    return 0 if any(row.fits for row in rows) else EXIT_NO


def _document(plan: ModelPlan, rows: Sequence[PlanRow]) -> object:
    document = to_json(plan)
    document["fits"] = plan.fits
    for device in document["devices"]:
        del device["rows"]
    document["rows"] = to_json(rows)
    return document


def _sizes(arguments: argparse.Namespace, profiles: Sequence[DeviceProfile]) -> int:
    from edgeport.cli.plan_text import sizes_text
    from edgeport.devices.plan_known import device_sizes

    if not arguments.device:
        raise UsageError(
            "a plan needs a MODEL, or a --device to list the sizes that fit it",
            hint="edgeport plan llama-3.1-8b, or edgeport plan --device raspberry-pi-5-8gb",
        )
    if arguments.html is not None:
        raise UsageError("--html draws the plan of a MODEL", hint="name the model")
    found = [device_sizes(profile, _wish(arguments, ())) for profile in profiles]
    if arguments.json:
        print(json.dumps(to_json(found), indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(sizes_text(sizes) for sizes in found))
    return 0 if any(sizes.fits for sizes in found) else EXIT_NO


def _wish(arguments: argparse.Namespace, containers: Sequence[Container]) -> Wish:
    from edgeport.devices.plan_choice import make_wish

    return make_wish(
        formats=_names(arguments.format),
        precisions=_names(arguments.precision),
        workload=(arguments.context, arguments.batch, arguments.kv_bits),
        containers=containers,
        every_row=arguments.all or bool(arguments.device),
    )


def _names(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for word in words for name in word.split(",") if name))
