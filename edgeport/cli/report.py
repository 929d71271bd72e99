"""`edgeport report DIR`: report.html and the model card, from the manifest alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgeport.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Writes DIR/report.html, one page that needs nothing else, and DIR/README.md, the model card. What each section of the\n"
        "page says: docs/report.md."
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="an artifact folder")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="write the page there instead, and nothing into DIR"
    )
    parser.add_argument("--open", action="store_true", help="show the page in this machine's browser")


def run(arguments: argparse.Namespace) -> int:
    """Print the path of the page; 0, also where there is no browser to show it."""
    from edgeport.manifest import read_manifest
    from edgeport.runtimes.report.card import write_card
    from edgeport.runtimes.report.page import write_report

    directory, output = arguments.directory, arguments.output
    manifest = read_manifest(directory)
    try:
        if output is None:
            write_card(manifest, directory)
        page = write_report(manifest, directory, output)
    except OSError as error:
        place = output if output is not None else directory
        raise UsageError(
            f"the report cannot be written {'as' if output is not None else 'into'} {place}: {error.strerror}",
            hint="name a file where you may write: --output FILE",
        ) from error
    print(page)
    if arguments.open:
        _show(page)
    return 0


def _show(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        print(f"no browser could be started here; open {page} yourself", file=sys.stderr)
