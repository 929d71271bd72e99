"""`edgeport verify`: re-open every container of an artifact in a fresh process and compare it with what was exported."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artifact", metavar="DIR", type=Path, help="artifact folder written by `edgeport export`"
    )
    parser.add_argument(
        "--format",
        action="append",
        metavar="NAME",
        help="check only this container; repeat, or separate by commas",
    )
    parser.add_argument("--json", action="store_true", help="print the checks as one JSON document")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def run(arguments: argparse.Namespace) -> int:
    from edgeport.manifest import read_manifest, to_json
    from edgeport.progress import Progress
    from edgeport.table import format_table

    formats = [name for item in arguments.format or () for name in item.split(",") if name]
    progress = Progress(quiet=arguments.quiet)
    if read_manifest(arguments.artifact).encoder:
        from edgeport.export.encoders.verify import verify_encoder

        verification, _ = verify_encoder(arguments.artifact, formats=formats, progress=progress)
    else:
        from edgeport.export.verify.artifact import verify_artifact

        verification = verify_artifact(arguments.artifact, formats=formats, progress=progress)
    if arguments.json:
        print(json.dumps({"passed": verification.passed, "checks": to_json(verification.checks)}, indent=2))
    else:
        rows = [
            (check.container, check.name, "ok" if check.passed else "FAILED", check.detail)
            for check in verification.checks
        ]
        print(format_table(("container", "check", "verdict", "detail"), rows))
    return 0 if verification.passed else 1
