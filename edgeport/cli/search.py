"""`edgeport search`: try combinations of pruning and bits within a budget, export the best that the gate passes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeport.export.prune.settings import Amount
    from edgeport.export.search.run import SearchRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="model folder with config.json and *.safetensors, or a hub id"
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR",
        help="folder of the search: search.json, pareto.html, recipes/, and the winner in artifact/ "
        "(default: artifacts/MODEL-search)",
    )  # fmt: skip
    parser.add_argument("--device", default="host", metavar="NAME", help="device profile (default: host)")
    parser.add_argument(
        "--format", action="append", metavar="NAME",
        help="formats of the artifact; quality is measured in the first (default: the device's)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="default: the cores this process may use")
    _add_space(parser)
    _add_limits(parser)
    parser.add_argument("--dry-run", action="store_true", help="show the candidates and stop")
    parser.add_argument("--no-export", action="store_true", help="measure and rank, publish nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def _add_space(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is combined; shares kept such as 0.75, or numbers such as 576")
    group.add_argument(
        "--ffn", default="1.0,0.875,0.75", metavar="A,B", help="feed-forward width (default: 1.0,0.875,0.75)"
    )
    group.add_argument("--heads", default="1.0", metavar="A,B", help="attention heads (default: 1.0)")
    group.add_argument("--layers", default="1.0", metavar="A,B", help="layers (default: 1.0)")
    group.add_argument("--embedding", default="1.0", metavar="A,B", help="hidden width (default: 1.0)")
    group.add_argument(
        "--recipes", default="int4,int8", metavar="A,B", help="recipes by name or file (default: int4,int8)"
    )
    group.add_argument(
        "--minutes", type=float, default=5.0, metavar="N",
        help="recovery of each pruned shape, 0 for none (default: 5)",
    )  # fmt: skip
    group.add_argument(
        "--recovery-text", action="append", default=[], metavar="SOURCE",
        help="text to recover on, as `edgeport distill --text` (default: auto)",
    )  # fmt: skip


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits and preference")
    group.add_argument(
        "--target-memory", metavar="SIZE", help="memory to run in: 2GB (default: the device's)"
    )
    group.add_argument("--target-size", metavar="SIZE", help="weights of the largest container at most: 3MB")
    group.add_argument(
        "--min-speed", type=float, metavar="TOKENS/S", help="predicted decoding speed on the device, at least"
    )
    group.add_argument(
        "--max-loss", default="5%", metavar="SHARE", help="perplexity at most this much worse (default: 5%%)"
    )
    group.add_argument(
        "--heldout", type=Path, metavar="FILE", help="text to measure on (default: text/heldout.txt of MODEL)"
    )
    group.add_argument(
        "--prefer", default="quality", choices=("quality", "size", "speed"),
        help="what wins among those that are good and small enough (default: quality)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from edgeport.cli.search_page import HEADERS, table_rows, write_page
    from edgeport.export.search.run import plan_search, search
    from edgeport.progress import Progress
    from edgeport.table import format_table

    request = _request(arguments)
    candidates = plan_search(request)
    if arguments.dry_run:
        rows = [(item.name, item.refused or "will be measured") for item in candidates]
        document = [{"name": item.name, "refused": item.refused} for item in candidates]
        print(json.dumps(document, indent=2) if arguments.json else format_table(("candidate", ""), rows))
        return 0
    tell = (lambda text: None) if arguments.quiet else _tell
    result = search(request, candidates, progress=Progress(quiet=arguments.quiet), tell=tell)
    page = write_page(result, f"{Path(arguments.model).resolve().name}: pruning and bits")
    if arguments.json:
        print(json.dumps(result.to_document(), indent=2))
        return 0
    print(format_table(HEADERS, table_rows(result), right=range(1, len(HEADERS) - 1)))
    print(
        f"chosen: {result.chosen}, recipe {request.base.out / 'recipes' / result.chosen}.toml; plot: {page}"
    )
    if result.exported is not None:
        print(f"artifact: {result.exported.directory}")
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _request(arguments: argparse.Namespace) -> SearchRequest:
    from edgeport.export.gate.thresholds import Thresholds
    from edgeport.export.request import Budget, ExportRequest, GateWish
    from edgeport.export.search.candidates import Limits, SearchSpace
    from edgeport.export.search.run import SearchRequest
    from edgeport.units import parse_bytes, parse_share

    formats = [name for item in arguments.format or () for name in item.split(",") if name]
    memory = parse_bytes(arguments.target_memory) if arguments.target_memory else None
    base = ExportRequest(
        model=arguments.model,
        device=arguments.device,
        out=arguments.out or Path("artifacts") / f"{Path(arguments.model).resolve().name}-search",
        formats=tuple(formats) or None,
        threads=arguments.threads,
        gate=GateWish(
            heldout=arguments.heldout, thresholds=Thresholds(perplexity_loss=parse_share(arguments.max_loss))
        ),
        budget=Budget(memory_bytes=memory),
    )
    space = SearchSpace(
        ffn=_amounts(arguments.ffn),
        heads=_amounts(arguments.heads),
        layers=_amounts(arguments.layers),
        embedding=_amounts(arguments.embedding),
        recipes=tuple(name for name in arguments.recipes.split(",") if name),
        minutes=arguments.minutes,
        text=tuple(arguments.recovery_text) or ("auto",),
    )
    size = parse_bytes(arguments.target_size) if arguments.target_size else None
    limits = Limits(size, arguments.min_speed)
    return SearchRequest(base, space, limits, prefer=arguments.prefer, export=not arguments.no_export)


def _amounts(text: str) -> tuple[Amount, ...]:
    from edgeport.export.prune.settings import parse_amount

    return tuple(parse_amount(item) for item in text.split(",") if item)
