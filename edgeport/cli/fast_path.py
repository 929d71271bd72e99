"""`edgeport fast-path PATH`: which kernels the tensors of each container get on this processor, with the engine's own proof."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="an artifact folder, a container folder or a model file")
    parser.add_argument(
        "--format",
        action="append",
        metavar="NAME",
        help="check only this container; repeat, or separate by commas",
    )
    parser.add_argument(
        "--no-tuned", action="store_true", help="not with the settings `edgeport tune` found for this machine"
    )
    parser.add_argument("--evidence", action="store_true", help="show the proof of what is fast, too")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments: argparse.Namespace) -> int:
    from edgeport.manifest import to_json
    from edgeport.runtimes.fast_path.check import check_fast_path
    from edgeport.runtimes.fast_path.text import report_text

    formats = [name for item in arguments.format or () for name in item.split(",") if name]
    report = check_fast_path(arguments.path, formats=formats, tuned=not arguments.no_tuned)
    if arguments.json:
        print(json.dumps(to_json(report), indent=2))
    else:
        print(report_text(report, evidence=arguments.evidence))
    return 0 if report.fast else 1
