"""`edgeport distill`: plan, show the plan, train, show what was won."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeport.export.recover.publish import DistillRequest
    from edgeport.export.recover.settings import DistillSettings

_SAME_NAME = (
    "kind", "alpha", "temperature", "logit_weight", "hidden_weight", "steps", "minutes", "learning_rate", "weight_decay",
    "batch_tokens", "micro_tokens", "precision", "gradient_checkpointing", "cache_teacher", "measure_steps",
    "patience", "seed", "text", "text_tokens", "n_ctx", "held_tokens",
)  # fmt: skip
"""Arguments that are settings of the same name; what is not given keeps its default."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--teacher",
        required=True,
        metavar="MODEL",
        help="model folder or hub id to learn from, with the student's tokenizer; none: from the text alone, with --alpha 0",
    )
    parser.add_argument(
        "--student", required=True, metavar="MODEL", help="model folder to train, such as a pruned one"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="Hugging Face folder to write"
    )
    _add_length(parser)
    _add_text(parser)
    _add_loss(parser)
    _add_training(parser)
    _add_switches(parser)


def _add_length(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "how long; the learning rate follows a cosine over it"
    ).add_mutually_exclusive_group()
    group.add_argument("--minutes", type=float, metavar="N", help="wall-clock time of training (default: 20)")
    group.add_argument("--steps", type=int, metavar="N", help="number of steps: the same bytes every time")
    group.add_argument(
        "--tokens", type=int, metavar="N", help="tokens to train on, rounded up to whole steps"
    )
    group.add_argument(
        "--repeat", type=Path, metavar="FILE", help="follow the schedule in an earlier run's provenance.json"
    )


def _add_text(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("text to train on")
    group.add_argument(
        "--text",
        action="append",
        metavar="WHAT",
        help="a UTF-8 file, a folder, a hub data set owner/name[:split[:column]], embedded, self (the teacher writes it), auto: "
        "text/calibration.txt of the teacher, else embedded, or python: the library of this Python; repeat for several "
        "(default: auto and python)",
    )
    group.add_argument(
        "--text-tokens", type=int, metavar="N", help="at most this many of each (default: 8388608)"
    )
    group.add_argument("--n-ctx", type=int, metavar="TOKENS", help="tokens per window (default: 512)")
    group.add_argument(
        "--held-tokens",
        type=int,
        metavar="N",
        help="of the text, not trained on, but measured on to stop in time and keep the best (default: 16384)",
    )
    group.add_argument(
        "--heldout",
        type=Path,
        metavar="FILE",
        help="windows that share passages with this text are left out (default: text/heldout.txt of the teacher, if any)",
    )


def _add_loss(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is learned")
    group.add_argument(
        "--alpha",
        type=float,
        metavar="SHARE",
        help="weight of the teacher's distribution; the rest is the text's own next tokens (default: 0.7)",
    )
    group.add_argument("--temperature", type=float, metavar="T", help="of both distributions (default: 1)")
    group.add_argument("--logit-weight", type=float, metavar="W", help="squared error of logits (default: 0)")
    group.add_argument(
        "--hidden-weight",
        type=float,
        metavar="W",
        help="squared error of hidden states, for models of one hidden size (default: 0)",
    )
    group.add_argument(
        "--cache-teacher",
        type=int,
        metavar="K",
        help="keep the teacher's K likeliest tokens of each position on disk instead of asking it again (default: 0, off)",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it is trained")
    group.add_argument(
        "--kind",
        metavar="NAME",
        help="what moves: full (every weight), or a kind of docs/distillation.md such as lora (default: full)",
    )
    group.add_argument(
        "--option",
        action="append",
        metavar="NAME=VALUE",
        help="setting of that kind, as in a recipe: --option rank=16; repeat for several",
    )
    group.add_argument("--learning-rate", type=float, metavar="RATE", help="peak of AdamW (default: 0.0001)")
    group.add_argument("--weight-decay", type=float, metavar="RATE", help="of matrices (default: 0.01)")
    group.add_argument("--batch-tokens", type=int, metavar="N", help="tokens per step (default: 4096)")
    group.add_argument(
        "--micro-tokens",
        type=int,
        metavar="N",
        help="of these at a time, which memory grows with (default: 2048)",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "f32", "bf16"),
        help="of matrix products; auto: bf16 where the processor has instructions for it (default: auto)",
    )
    group.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        default=None,
        help="compute each layer twice instead of keeping its activations",
    )
    group.add_argument(
        "--measure-steps", type=int, metavar="N", help="steps between measurements (default: 50)"
    )
    group.add_argument(
        "--patience", type=int, metavar="N", help="measurements without a better one, then stop (default: 10)"
    )
    group.add_argument("--seed", type=int, metavar="N", help="of the order of the text (default: 0)")


def _add_switches(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads (default: the cores this process may use)"
    )
    parser.add_argument("--force", action="store_true", help="replace DIR when edgeport made it")
    parser.add_argument(
        "--no-resume",
        action="store_true",
        help="start anew instead of from the last checkpoint of a killed run",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan and stop")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON document")
    parser.add_argument("--quiet", action="store_true", help="no progress and no plan on stderr")


def run(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from edgeport.cli.distill_text import plan_text, report_text
    from edgeport.export.recover.publish import make_distill_plan, run_distill
    from edgeport.progress import Progress

    request = _request(arguments)
    plan = make_distill_plan(request)
    if arguments.dry_run:
        print(json.dumps(plan.to_document(), indent=2) if arguments.json else plan_text(plan))
        return 0
    if not arguments.quiet:
        print(plan_text(plan), file=sys.stderr, flush=True)
    report = run_distill(request, plan, Progress(quiet=arguments.quiet))
    document = plan.to_document() | asdict(report)
    print(json.dumps(document, indent=2) if arguments.json else report_text(report, request.out))
    return 0


def _request(arguments: argparse.Namespace) -> DistillRequest:
    from edgeport.export.recover.publish import DistillRequest

    return DistillRequest(
        teacher=arguments.teacher,
        student=arguments.student,
        out=arguments.out,
        settings=_settings(arguments),
        heldout=arguments.heldout,
        repeat=arguments.repeat,
        threads=arguments.threads,
        force=arguments.force,
        resume=not arguments.no_resume,
    )


def _settings(arguments: argparse.Namespace) -> DistillSettings:
    from edgeport.export.recover.settings import DistillSettings, settings_from

    given = {name: getattr(arguments, name) for name in _SAME_NAME}
    document = {name: value for name, value in given.items() if value is not None}
    if arguments.tokens is not None:
        batch_tokens = document.get("batch_tokens", DistillSettings().batch_tokens)
        document["steps"] = -(-arguments.tokens // max(batch_tokens, 1))
    return settings_from(document | {"options": _options(arguments.option or ())})


def _options(words: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE with a TOML value; a bare word is a string."""
    import tomllib

    from edgeport.errors import UsageError

    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"not an option: {word!r}", hint="write NAME=VALUE: --option rank=16")
        try:
            found[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name.strip()] = value.strip()
    return found
