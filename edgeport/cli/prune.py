"""`edgeport prune`: plan, show the plan, cut, show what it cost."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeport.export.prune.publish import PruneRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="model folder with config.json and *.safetensors, or a hub id owner/name",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="DIR",
        help="Hugging Face folder to write (default: artifacts/MODEL-pruned)",
    )
    _add_amounts(parser)
    _add_method(parser)
    _add_calibration(parser)
    _add_switches(parser)


def _add_amounts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "what is kept: a share with a point (0.75), or a number (576); several are cut in one go"
    )
    group.add_argument("--ffn", metavar="KEPT", help="feed-forward width")
    group.add_argument("--heads", metavar="KEPT", help="attention heads")
    group.add_argument("--layers", metavar="KEPT", help="decoder layers")
    group.add_argument("--embedding", metavar="KEPT", help="hidden width")
    group.add_argument(
        "--vocabulary",
        metavar="TEXT",
        help="keep only the tokens that a UTF-8 file or a folder uses; auto: text/calibration.txt of MODEL, else the embedded "
        "text",
    )


def _add_method(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it is chosen")
    group.add_argument(
        "--importance",
        default="activation",
        metavar="NAME",
        help="activation (for layers: block influence), or for comparison magnitude, random, last (default: activation)",
    )
    group.add_argument(
        "--reconstruct",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="solve the kept columns of o_proj and down_proj for what was cut (default: yes)",
    )
    group.add_argument(
        "--snap",
        type=int,
        metavar="N",
        help="widths are multiples of 32, 64, 128 or 256 (default: what --format wants, else 32)",
    )
    group.add_argument(
        "--format",
        action="append",
        metavar="NAME",
        help="formats the result will be exported to; repeat, or separate by commas",
    )
    group.add_argument(
        "--per-layer", action="store_true", help="widths may differ from layer to layer where they help most"
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="for --importance random (default: 0)"
    )


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("text to score on; an eighth of it is only measured on")
    group.add_argument(
        "--calibration",
        default="auto",
        metavar="WHAT",
        help="a UTF-8 file, a folder, a hub data set owner/name[:split[:column]], embedded, self (the model writes it), or "
        "auto: text/calibration.txt of MODEL, else embedded (default: auto)",
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
    group.add_argument(
        "--heldout",
        type=Path,
        metavar="FILE",
        help="text the calibration must not overlap (default: text/heldout.txt of MODEL, where there is one)",
    )


def _add_switches(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads (default: the cores this process may use)"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace DIR when an earlier `edgeport prune` made it"
    )
    parser.add_argument(
        "--no-resume",
        action="store_true",
        help="start anew instead of from the last whole layer of a killed run",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan and stop")
    parser.add_argument("--json", action="store_true", help="print plan and report as one JSON document")
    parser.add_argument("--quiet", action="store_true", help="no progress and no plan on stderr")


def run(arguments: argparse.Namespace) -> int:
    from edgeport.cli.prune_text import plan_text, report_text
    from edgeport.export.prune.publish import make_prune_plan, run_prune
    from edgeport.progress import Progress

    request = _request(arguments)
    plan = make_prune_plan(request)
    if arguments.dry_run:
        print(json.dumps(plan.to_document(), indent=2) if arguments.json else plan_text(plan))
        return 0
    if not arguments.quiet:
        print(plan_text(plan), file=sys.stderr, flush=True)
    report = run_prune(request, plan, Progress(quiet=arguments.quiet))
    if arguments.json:
        document = plan.to_document() | report.to_document() | {"seconds": report.seconds}
        print(json.dumps(document, indent=2))
    else:
        print(report_text(report, request.out))
    return 0


def _request(arguments: argparse.Namespace) -> PruneRequest:
    from edgeport.export.methods import CalibrationWish
    from edgeport.export.prune.publish import PruneRequest
    from edgeport.export.prune.settings import IMPORTANCES, parse_amount, settings_from

    wanted = {name: getattr(arguments, name) for name in IMPORTANCES}
    document = {name: parse_amount(text) for name, text in wanted.items() if text is not None}
    settings = settings_from(
        document
        | {
            "vocabulary": arguments.vocabulary,
            "importance": arguments.importance,
            "reconstruct": arguments.reconstruct,
            "snap": arguments.snap,
            "seed": arguments.seed,
            "per_layer": arguments.per_layer,
        }
    )
    out = arguments.out or Path("artifacts") / f"{Path(arguments.model).resolve().name}-pruned"
    return PruneRequest(
        model=arguments.model,
        out=out,
        settings=settings,
        formats=tuple(name for item in arguments.format or () for name in item.split(",") if name),
        calibration=CalibrationWish(
            arguments.calibration, arguments.calibration_tokens, arguments.calibration_context
        ),
        heldout=arguments.heldout,
        threads=arguments.threads,
        force=arguments.force,
        resume=not arguments.no_resume,
    )
