"""`edgeport draft`: ship a small sibling of the model beside it, which drafts what the model then only has to check."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeport.export.draft import DraftRequest
    from edgeport.manifest import DraftEntry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artifact", type=Path, metavar="DIR", help="artifact that gets the draft, in DIR/draft"
    )
    parser.add_argument(
        "--from", dest="small", type=Path, metavar="DIR",
        help="take this artifact of a smaller model with the same tokenizer instead of making one",
    )  # fmt: skip
    parser.add_argument(
        "--recipe", default="draft", metavar="NAME|FILE",
        help="how the sibling is cut, taught and quantized (default: draft, half of the layers and of the width)",
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, metavar="N", help="of distillation (default: the recipe's)")
    parser.add_argument(
        "--text", action="append", default=[], metavar="SOURCE",
        help="text to distil on, as `edgeport distill --text`; repeat for more (default: the recipe's)",
    )  # fmt: skip
    parser.add_argument(
        "--heldout", type=Path, metavar="FILE",
        help="text to measure the acceptance rate on (default: text/heldout.txt of the source)",
    )  # fmt: skip
    parser.add_argument(
        "--source", metavar="MODEL", help="the source model (default: where the manifest says)"
    )
    parser.add_argument("--device", metavar="NAME", help="device profile (default: the artifact's)")
    parser.add_argument("--threads", type=int, metavar="N", help="default: the cores this process may use")
    parser.add_argument("--dry-run", action="store_true", help="show the plan of the sibling and stop")
    parser.add_argument("--json", action="store_true", help="print the manifest's entry as one JSON document")
    parser.add_argument("--quiet", action="store_true", help="no progress and no plan on stderr")


def run(arguments: argparse.Namespace) -> int:
    from edgeport.cli.export_text import plan_document, plan_text
    from edgeport.export.draft import adopt_draft, make_draft, plan_draft
    from edgeport.progress import Progress

    request, progress = _request(arguments), Progress(quiet=arguments.quiet)
    if arguments.small is not None:
        return _show(adopt_draft(request, arguments.small, progress=progress), arguments)
    plan = plan_draft(request)
    if arguments.dry_run:
        print(json.dumps(plan_document(plan), indent=2) if arguments.json else plan_text(plan))
        return 0
    tell = (lambda text: None) if arguments.quiet else _tell
    tell(plan_text(plan))
    return _show(make_draft(request, plan, progress=progress, tell=tell), arguments)


def _show(entry: DraftEntry, arguments: argparse.Namespace) -> int:
    from edgeport.manifest import to_json

    if arguments.json:
        print(json.dumps(to_json(entry), indent=2))
        return 0
    print(
        f"{arguments.artifact / entry.folder}: {entry.acceptance_rate:.1%} of the proposals are what the model says, "
        f"{entry.tokens_per_step:.2f} tokens per step of the model with {entry.drafted_tokens} drafted"
    )
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _request(arguments: argparse.Namespace) -> DraftRequest:
    from edgeport.export.draft import DraftRequest
    from edgeport.export.preparation import RecoveryWish

    return DraftRequest(
        artifact=arguments.artifact,
        source=arguments.source,
        device=arguments.device,
        recipe=arguments.recipe,
        recovery=RecoveryWish(text=tuple(arguments.text), minutes=arguments.minutes),
        heldout=arguments.heldout,
        threads=arguments.threads,
    )
