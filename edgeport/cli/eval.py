"""`edgeport eval`: perplexity, KL divergence and top-1 agreement of each container with the source model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artifact", metavar="DIR", type=Path, help="artifact folder written by `edgeport export`"
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="UTF-8 text that was not calibrated on (default: text/heldout.txt in the source's folder)",
    )
    parser.add_argument(
        "--source", metavar="MODEL", help="the source model (default: where it was at the export)"
    )
    parser.add_argument(
        "--format", action="append", metavar="NAME", help="only this container; repeat, or separate by commas"
    )
    parser.add_argument(
        "--n-ctx",
        type=int,
        metavar="TOKENS",
        help="tokens per chunk, of which the second half is scored (default: 512, or the context)",
    )
    parser.add_argument(
        "--chunks",
        type=int,
        default=40,
        metavar="N",
        help="chunks at most, 0 for the whole text (default: 40; at most 2 GiB of logits)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads (default: the cores this process may use)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON document")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def run(arguments: argparse.Namespace) -> int:
    from edgeport.export.evaluate.run import EvalRequest, evaluate, result_rows
    from edgeport.manifest import to_json
    from edgeport.progress import Progress
    from edgeport.table import format_table

    formats = tuple(name for item in arguments.format or () for name in item.split(",") if name)
    request = EvalRequest(
        artifact=arguments.artifact,
        text=arguments.text or _default_text(arguments),
        source=arguments.source,
        formats=formats,
        n_ctx=arguments.n_ctx,
        most_chunks=arguments.chunks,
        threads=arguments.threads,
    )
    results = evaluate(request, progress=Progress(quiet=arguments.quiet))
    if arguments.json:
        print(json.dumps(to_json(results), indent=2))
        return 0
    headers = ("format", "runtime", "perplexity", "ratio to source", "KL divergence", "same top token")
    print(format_table(headers, result_rows(results), right={2, 3, 4, 5}))
    first = next(iter(results.values()))
    print(
        f"source perplexity {first.base_perplexity:.3f} ± {first.base_perplexity_error:.3f}; "
        f"{first.tokens} tokens in {first.chunks} chunks of {first.n_ctx}, second halves scored"
    )
    return 0


def _default_text(arguments: argparse.Namespace) -> Path:
    from edgeport.errors import UsageError
    from edgeport.manifest import read_manifest

    source = Path(arguments.source or read_manifest(arguments.artifact).source.location)
    text = source / "text" / "heldout.txt"
    if not text.is_file():
        raise UsageError(
            "no text to evaluate on",
            hint="give one with --text FILE: some thousand tokens the model was not calibrated on",
        )
    return text
