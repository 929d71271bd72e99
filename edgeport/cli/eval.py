"""`edgeport eval`: perplexity, KL divergence, agreement, a task and samples of each container beside the source model."""

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
    parser.add_argument(
        "--task",
        type=Path,
        metavar="FILE",
        help="classification task of JSON lines: prompt, choices, answer (default: text/task.jsonl beside the source, if any)",
    )
    parser.add_argument("--no-task", action="store_true", help="no classification task")
    _add_generation_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON document")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def _add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="continue these, one a line or .jsonl with `prompt` (default: 16 beginnings from the text)",
    )
    parser.add_argument(
        "--new-tokens",
        type=int,
        metavar="N",
        help="tokens to continue each prompt by (default: 96, or half the context)",
    )
    parser.add_argument(
        "--samples", type=int, default=3, metavar="N", help="continuations to show side by side (default: 3)"
    )
    parser.add_argument("--no-generation", action="store_true", help="continue no prompts")


def run(arguments: argparse.Namespace) -> int:
    from edgeport.export.evaluate.run import DEFAULT_PROMPTS, EvalRequest, evaluate
    from edgeport.export.evaluate.show import show
    from edgeport.manifest import to_json
    from edgeport.progress import Progress

    formats = tuple(name for item in arguments.format or () for name in item.split(",") if name)
    request = EvalRequest(
        artifact=arguments.artifact,
        text=arguments.text or _default_text(arguments),
        source=arguments.source,
        formats=formats,
        n_ctx=arguments.n_ctx,
        most_chunks=arguments.chunks,
        threads=arguments.threads,
        prompts=0 if arguments.no_generation else DEFAULT_PROMPTS,
        prompts_file=arguments.prompts,
        new_tokens=arguments.new_tokens,
        samples=arguments.samples,
        task=None if arguments.no_task else arguments.task or _default_task(arguments),
    )
    results = evaluate(request, progress=Progress(quiet=arguments.quiet))
    print(json.dumps(to_json(results), indent=2) if arguments.json else show(results))
    return 0


def _default_text(arguments: argparse.Namespace) -> Path:
    from edgeport.errors import UsageError

    text = _source_text_folder(arguments) / "heldout.txt"
    if not text.is_file():
        raise UsageError(
            "no text to evaluate on",
            hint="give one with --text FILE: some thousand tokens the model was not calibrated on",
        )
    return text


def _default_task(arguments: argparse.Namespace) -> Path | None:
    task = _source_text_folder(arguments) / "task.jsonl"
    return task if task.is_file() else None


def _source_text_folder(arguments: argparse.Namespace) -> Path:
    from edgeport.manifest import read_manifest

    return Path(arguments.source or read_manifest(arguments.artifact).source.location) / "text"
