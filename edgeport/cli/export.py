"""`edgeport export`: plan, show the plan, run it, show the result."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeport.export.request import ExportRequest


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
        help="gguf, onnx, openvino, safetensors, or a scheme of one engine's own such as gguf-q4_k_m; repeat, or "
        "separate by commas (default: the device's)",
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
    _add_preparation(parser)
    _add_method(parser)
    _add_budget(parser)
    _add_gate(parser)
    _add_switches(parser)


def _add_preparation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "pruning and recovery, where the recipe has them (edge-pruned, distill-int8)"
    )
    group.add_argument(
        "--teacher",
        metavar="MODEL",
        help="model folder or hub id with the same tokenizer that recovery learns from (default: the recipe's, else MODEL "
        "before pruning)",
    )
    group.add_argument(
        "--recovery-text",
        action="append",
        default=[],
        metavar="SOURCE",
        help="text to learn on, as --calibration takes it, or python, the library of this interpreter; repeat for more "
        "(default: the recipe's)",
    )
    group.add_argument(
        "--recovery-minutes", type=float, metavar="N", help="at most this long (default: the recipe's)"
    )
    group.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="keep pruned and recovered models here, for later exports that want the same (default: nothing is kept)",
    )


def _add_method(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how codes are found")
    group.add_argument(
        "--solver",
        metavar="NAME|auto",
        help="rtn, imatrix, gptq, gptq+imatrix, awq, awq+gptq, learned, or auto: the best within the time budget "
        "(default: the recipe's)",
    )
    group.add_argument(
        "--calibration",
        default="auto",
        metavar="WHAT",
        help="text to calibrate on: a UTF-8 file, a folder, a hub data set owner/name[:split[:column]], embedded, self "
        "(the model writes it), or auto: text/calibration.txt of MODEL, else embedded (default: auto)",
    )
    group.add_argument(
        "--calibration-tokens", type=int, default=32768, metavar="N", help="about this many (default: 32768)"
    )
    group.add_argument(
        "--calibration-context",
        type=int,
        metavar="N",
        help="tokens per window (default: 512, or the model's context)",
    )


def _add_budget(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("budgets; bits are spent where they help most, by measurement")
    sizes = group.add_mutually_exclusive_group()
    sizes.add_argument(
        "--target-bits", type=float, metavar="BITS", help="average bits per weight, scales included: 4.6"
    )
    sizes.add_argument(
        "--target-size", metavar="SIZE", help="files of the largest container at most: 300MB, 1.5GiB"
    )
    group.add_argument(
        "--target-memory",
        metavar="SIZE",
        help="memory the model may take when it runs: 2GB (default: what the device has)",
    )
    group.add_argument(
        "--time-budget", metavar="TIME", help="for the solver `auto` picks: 30m (default: 30m)"
    )


def _add_gate(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the gate, which judges every container before anything is published")
    group.add_argument(
        "--gate", action=argparse.BooleanOptionalAction, default=True, help="judge (default: yes)"
    )
    group.add_argument(
        "--ladder",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="when the gate says no, go on by itself: better solver, mixed precision, INT8, 16 bits (default: yes)",
    )
    group.add_argument(
        "--max-loss",
        default="5%",
        metavar="SHARE",
        help="perplexity on held-out text may be this much worse than the source's (default: 5%%)",
    )
    group.add_argument(
        "--heldout",
        type=Path,
        metavar="FILE",
        help="UTF-8 text to judge on; calibration refuses to overlap with it (default: text/heldout.txt of MODEL, else "
        "text sampled from it)",
    )
    group.add_argument(
        "--deployment-checks",
        action="store_true",
        help="also demand 1.5x the speed and half the memory of 16 bits in the same engine, and a stable long run",
    )


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

    from edgeport.export.encoders.source import names_encoder

    request = _request(arguments)
    if names_encoder(request.model):
        from edgeport.cli.export_encoder import export_encoder

        return export_encoder(request, arguments)

    from edgeport.cli.export_text import plan_document, plan_text, result_text
    from edgeport.export.request import make_plan
    from edgeport.progress import Progress

    plan = make_plan(request)
    if arguments.dry_run:
        print(json.dumps(plan_document(plan), indent=2) if arguments.json else plan_text(plan))
        return 0
    if not arguments.quiet:
        print(plan_text(plan), file=sys.stderr)

    from edgeport.export.pipeline import run as run_plan
    from edgeport.manifest import to_json

    tell = None if arguments.quiet else _tell
    result = run_plan(plan, progress=Progress(quiet=arguments.quiet), tell=tell)
    print(json.dumps(to_json(result.manifest), indent=2) if arguments.json else result_text(result))
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _request(arguments: argparse.Namespace) -> ExportRequest:
    from edgeport.export.gate.thresholds import Thresholds
    from edgeport.export.methods import CalibrationWish
    from edgeport.export.preparation import RecoveryWish
    from edgeport.export.request import Budget, ExportRequest, GateWish
    from edgeport.units import parse_bytes, parse_seconds, parse_share

    formats = [name for item in arguments.format or () for name in item.split(",") if name]
    out = arguments.out or Path("artifacts") / f"{Path(arguments.model).resolve().name}-{arguments.device}"
    return ExportRequest(
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
        solver=arguments.solver,
        recovery=RecoveryWish(
            arguments.teacher, tuple(arguments.recovery_text), arguments.recovery_minutes, arguments.store
        ),
        calibration=CalibrationWish(
            arguments.calibration, arguments.calibration_tokens, arguments.calibration_context
        ),
        gate=GateWish(
            enabled=arguments.gate,
            ladder=arguments.ladder,
            deployment_checks=arguments.deployment_checks,
            heldout=arguments.heldout,
            thresholds=Thresholds(perplexity_loss=parse_share(arguments.max_loss)),
        ),
        budget=Budget(
            bits=arguments.target_bits,
            size_bytes=parse_bytes(arguments.target_size) if arguments.target_size else None,
            memory_bytes=parse_bytes(arguments.target_memory) if arguments.target_memory else None,
            time_s=parse_seconds(arguments.time_budget) if arguments.time_budget else None,
        ),
    )


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
