"""Write docs/cli.md from the commands' own parsers, or with --check say whether it is up to date.

The text comes from argparse at a fixed width of 100 columns, so that it does not depend on the terminal.
"""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path

from edgeport.cli import COMMANDS, help_text, load_command

TARGET = Path(__file__).parent / "cli.md"
HEADER = """# Command reference

Written by `make docs` from the program's own help; do not edit.

stdout is the result (`--json` makes it one document), stderr is progress and errors.
Exit codes: 0 yes, 1 no or a failure, 2 usage or bad input, 3 a missing extra, 130 interrupted.
"""


def render() -> str:
    os.environ["COLUMNS"] = "100"
    parts = [HEADER, _block(help_text())]
    for name in COMMANDS:
        _, parser = load_command(name)
        parts += [f"## edgeport {name}\n", _block(parser.format_help())]
    return "\n".join(parts)


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```\n"


def main() -> int:
    text = render()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    old = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
    if old == text:
        return 0
    sys.stdout.writelines(
        difflib.unified_diff(
            old.splitlines(True), text.splitlines(True), "docs/cli.md", "as the commands say"
        )
    )
    print("docs/cli.md is out of date: run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
