"""`edgeport report DIR`: report.html and the model card, from the manifest alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeport.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Writes DIR/report.html, one page that needs nothing else, and DIR/README.md, the model card."
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="an artifact folder")


def run(arguments: argparse.Namespace) -> int:
    """Print the path of the page; 0."""
    from edgeport.manifest import read_manifest
    from edgeport.runtimes.report.card import write_card
    from edgeport.runtimes.report.page import write_report

    manifest = read_manifest(arguments.directory)
    try:
        write_card(manifest, arguments.directory)
        print(write_report(manifest, arguments.directory))
    except OSError as error:
        raise UsageError(
            f"the report cannot be written into {arguments.directory}: {error.strerror}",
            hint="copy the folder to where you may write; only its manifest.json is read",
        ) from error
    return 0
