"""`edgeport export`: plan, show the plan, run it, show the result."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeport.export.pipeline import ExportResult
    from edgeport.export.request import ExportPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="model folder with config.json and *.safetensors, or a hub id owner/name",
    )
    parser.add_argument(
        "--device",
        default="host",
        metavar="NAME",
        help="device profile, `edgeport devices` lists them (default: host, this machine)",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="DIR",
        help="artifact folder to write (default: artifacts/MODEL-DEVICE)",
    )
    parser.add_argument(
        "--format",
        action="append",
        metavar="NAME",
        help="gguf, onnx, openvino or safetensors; repeat, or separate by commas (default: the device's)",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help="recipe by name or a TOML file (default: the device's); --list-recipes shows them",
    )
    parser.add_argument(
        "--context",
        type=int,
        metavar="TOKENS",
        help="context the artifact is planned for (default: the device's)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads for quantizing (default: the cores this process may use)",
    )
    _add_switches(parser)


def _add_switches(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace DIR when it exists")
    parser.add_argument(
        "--no-resume",
        action="store_true",
        help="start anew instead of from the last whole stage of a killed export",
    )
    parser.add_argument(
        "--no-verify",
        action="store_true",
        help="publish without re-opening the containers; the manifest says that they are not verified",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan and stop")
    parser.add_argument("--list-recipes", action="store_true", help="list the shipped recipes and stop")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the manifest (or the plan, with --dry-run) as one JSON document",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress and no plan on stderr")


def run(arguments: argparse.Namespace) -> int:
    from edgeport.errors import UsageError

    if arguments.list_recipes:
        return _list_recipes(as_json=arguments.json)
    if arguments.model is None:
        raise UsageError("no MODEL was given", hint="edgeport export MODEL --device edge -o DIR")

    from edgeport.export.request import ExportRequest, make_plan
    from edgeport.progress import Progress

    formats = [name for item in arguments.format or () for name in item.split(",") if name]
    out = arguments.out or Path("artifacts") / f"{Path(arguments.model).resolve().name}-{arguments.device}"
    request = ExportRequest(
        model=arguments.model,
        device=arguments.device,
        out=out,
        formats=tuple(formats) or None,
        recipe=arguments.recipe,
        context_length=arguments.context,
        threads=arguments.threads,
        force=arguments.force,
        resume=not arguments.no_resume,
        verify=not arguments.no_verify,
    )
    plan = make_plan(request)
    if arguments.dry_run:
        print(json.dumps(_plan_document(plan), indent=2) if arguments.json else plan_text(plan))
        return 0
    if not arguments.quiet:
        print(plan_text(plan), file=sys.stderr)

    from edgeport.export.pipeline import run as run_plan

    result = run_plan(plan, progress=Progress(quiet=arguments.quiet))
    print(_result_json(result) if arguments.json else result_text(result))
    return 0


def _list_recipes(*, as_json: bool) -> int:
    from edgeport.export.recipe import load_recipe, recipe_names
    from edgeport.table import format_table

    recipes = [load_recipe(name) for name in recipe_names()]
    if as_json:
        print(json.dumps([recipe.to_document() for recipe in recipes], indent=2))
    else:
        rows = [
            (item.name, str(item.linear), str(item.embedding), str(item.head), item.description)
            for item in recipes
        ]
        print(format_table(("recipe", "linear", "embedding", "head", "what it is"), rows))
    return 0


def plan_text(plan: ExportPlan) -> str:
    from edgeport.table import format_table
    from edgeport.units import format_bytes, format_count

    facts = plan.facts
    lines = [
        f"{plan.source.name}: {facts.family}, {format_count(facts.parameters)} parameters, {facts.layers} layers, "
        f"source {format_bytes(plan.source.facts().size_bytes)}",
        f"recipe {plan.recipe.name} ({plan.recipe.solver}): {facts.bits_per_weight:.2f} bits per weight; "
        f"device {plan.profile.name}, context {plan.context_length}",
        f"the export takes {format_bytes(plan.ram_bytes)} of memory and {format_bytes(plan.disk_bytes)} of disk",
    ]
    rows = [
        (
            fit.format,
            format_bytes(plan.sizes_bytes[fit.format]),
            format_bytes(fit.memory.required_bytes),
            f"{fit.speed.decode_low_tokens_per_s:.0f}-{fit.speed.decode_high_tokens_per_s:.0f}",
            "fits" if fit.fits else "does not fit: " + "; or ".join(fit.advice),
        )
        for fit in plan.fits
    ]
    lines.append(
        format_table(
            ("format", "weights", "memory to run", "tokens/s predicted", plan.profile.name),
            rows,
            right={1, 2, 3},
        )
    )
    lines.extend(f"{name} is left out: {', '.join(why)}" for name, why in plan.refused.items())
    lines.extend(plan.notes[:5])
    if len(plan.notes) > 5:
        lines.append(f"... and {len(plan.notes) - 5} more tensors")
    return "\n".join(lines)


def result_text(result: ExportResult) -> str:
    from edgeport.table import format_table
    from edgeport.units import format_bytes, format_seconds

    manifest = result.manifest
    source_bytes = manifest.source.size_bytes
    rows = [
        (
            entry.format,
            entry.entry_point,
            format_bytes(entry.size_bytes),
            f"{source_bytes / entry.size_bytes:.2f}x",
            "verified" if entry.verified else "NOT VERIFIED",
            entry.weights_id[:16],
        )
        for entry in manifest.containers
    ]
    table = format_table(("format", "file", "size", "ratio", "verdict", "weights_id"), rows, right={2, 3})
    seconds = manifest.cost["seconds"]
    packing = sum(value for stage, value in seconds.items() if stage not in ("verify", "golden"))
    cost = f"{format_seconds(sum(seconds.values()))} ({format_seconds(packing)} to quantize and pack)"
    peak = format_bytes(manifest.cost["peak_ram_bytes"])
    return f"{table}\n{result.directory}: {cost}, peak memory {peak}"


def _plan_document(plan: ExportPlan) -> dict[str, object]:
    from edgeport.manifest import to_json

    return {
        "model": to_json(plan.facts),
        "source": to_json(plan.source.facts()),
        "recipe": plan.recipe.to_document(),
        "device": plan.profile.name,
        "context_length": plan.context_length,
        "formats": list(plan.formats),
        "refused": to_json(plan.refused),
        "sizes_bytes": dict(plan.sizes_bytes),
        "fits": to_json(plan.fits),
        "disk_bytes": plan.disk_bytes,
        "ram_bytes": plan.ram_bytes,
        "notes": list(plan.notes),
    }


def _result_json(result: ExportResult) -> str:
    from edgeport.manifest import to_json

    return json.dumps(to_json(result.manifest), indent=2)
