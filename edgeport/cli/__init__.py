"""The command line: find the command, import only its module, and be the one place that prints errors.

A command is one file here with `add_arguments(parser)` and `run(arguments) -> int`, and one line in COMMANDS. Its
module level imports the standard library and the spine only, so that `edgeport COMMAND --help` is quick and works in an
installation without extras. stdout is the result, stderr is progress and errors.

Exit codes: 0 yes, 1 no (or a failure), 2 usage or bad input, 3 a missing extra, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from edgeport import __version__
from edgeport.errors import EdgeportError, UsageError

COMMANDS: dict[str, tuple[str, str]] = {
    "prune": ("edgeport.cli.prune", "cut layers, widths, heads or tokens; a stock model folder comes out"),
    "distill": ("edgeport.cli.distill", "train a pruned or small model to answer as its teacher does"),
    "plan": ("edgeport.cli.plan", "say what fits which device, how fast, and what would make it fit"),
    "export": ("edgeport.cli.export", "quantize a model once and pack it for every engine"),
    "draft": ("edgeport.cli.draft", "ship a small sibling that drafts for the model"),
    "search": ("edgeport.cli.search", "find how much to prune and how many bits to spend, by measurement"),
    "verify": ("edgeport.cli.verify", "re-open every container: weights, text, checksums"),
    "eval": ("edgeport.cli.eval", "measure quality against the source model, per runtime"),
    "run": ("edgeport.cli.run", "generate text with an exported model"),
    "bench": ("edgeport.cli.bench", "measure speed and memory, per runtime"),
    "fast-path": ("edgeport.cli.fast_path", "say which kernels a model gets here, and why one is slow"),
    "tune": ("edgeport.cli.tune", "find an engine's fastest settings here by measurement, and remember them"),
    "devices": ("edgeport.cli.devices", "list device profiles, or probe this machine"),
    "inspect": ("edgeport.cli.inspect", "show what a model, artifact or file of any origin holds"),
    "sparsify": ("edgeport.cli.sparsify", "set weights to zero, for a smaller compressed download"),
    "report": ("edgeport.cli.report", "write one HTML page with tables and plots"),
}

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class Command(Protocol):
    """What a command's module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the only handler of errors."""
    words = list(sys.argv[1:] if argv is None else argv)
    traceback_wanted = "--traceback" in words
    try:
        code = _dispatch([word for word in words if word != "--traceback"])
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("edgeport: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`); point stdout elsewhere so that the interpreter's last flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except EdgeportError as error:
        if traceback_wanted:
            raise
        print(f"edgeport: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return error.exit_code
    except Exception as error:  # the last stop before the user
        if traceback_wanted:
            raise
        print(f"edgeport: sorry, this is a bug: {type(error).__name__}: {error}", file=sys.stderr)
        print("  run it again with --traceback to see where, and report that", file=sys.stderr)
        return EXIT_FAILURE


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0 if words else EXIT_USAGE
    name, *rest = words
    if name == "--version":
        print(f"edgeport {__version__}")
        return 0
    if name not in COMMANDS:
        raise _unknown(name)
    command, parser = load_command(name)
    try:
        # Plain parse_args gives an optional positional up at the first option: `run DIR --chat "text"` would be refused.
        arguments = parser.parse_intermixed_args(rest)
    except SystemExit as end:  # argparse has printed the help or what is wrong
        return end.code if isinstance(end.code, int) else EXIT_USAGE
    return command.run(arguments)


def load_command(name: str) -> tuple[Command, argparse.ArgumentParser]:
    """Import one command's module and build its parser."""
    module_name, summary = COMMANDS[name]
    command = cast(Command, importlib.import_module(module_name))
    parser = argparse.ArgumentParser(
        prog=f"edgeport {name}",
        description=summary[0].upper() + summary[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    return command, parser


def help_text() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: edgeport COMMAND [arguments]",
            "",
            "Quantize a Hugging Face model once, pack it for every engine, measure it on the device.",
            "",
            "commands:",
            *lines,
            "",
            "`edgeport COMMAND --help` shows a command's arguments. `--traceback` after any command shows where an",
            "error came from, `edgeport --version` the version.",
        ]
    )


def _unknown(name: str) -> UsageError:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    meant = f", did you mean {near[0]!r}?" if near else ""
    kind = "option" if name.startswith("-") else "command"
    return UsageError(f"unknown {kind} {name!r}{meant}", hint=f"commands are {', '.join(COMMANDS)}")
