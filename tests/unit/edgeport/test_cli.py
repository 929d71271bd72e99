"""The dispatcher: exit codes, messages, start-up time. Commands here are real modules written for the test."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeport import __version__
from edgeport.cli import COMMANDS, load_command, main

HELP_LIMIT_S = 0.3
PROBE = """
import os
import sys

from edgeport.errors import DoesNotFit


def add_arguments(parser):
    parser.add_argument("behaviour")


def run(arguments):
    match arguments.behaviour:
        case "fine":
            print("the result")
            return 0
        case "no":
            return 1
        case "error":
            raise DoesNotFit("9 GiB are needed, 4 GiB are there", hint="try int4")
        case "bug":
            raise ZeroDivisionError("oops")
        case "interrupt":
            raise KeyboardInterrupt
        case "pipe":
            for _ in range(100000):
                print("a long line that fills the pipe")
            return 0
    raise AssertionError(arguments.behaviour)
"""


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command `probe` that does what it is told."""
    (tmp_path / "edgeport_probe_command.py").write_text(PROBE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(COMMANDS, "probe", ("edgeport_probe_command", "do as told"))
    return tmp_path


def test_the_result_is_on_stdout(probe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "fine"]) == 0
    assert capsys.readouterr() == ("the result\n", "")


def test_a_command_can_say_no(probe: Path) -> None:
    assert main(["probe", "no"]) == 1


def test_an_error_shows_message_and_hint_without_traceback(
    probe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", "error"]) == 1
    assert capsys.readouterr() == ("", "edgeport: 9 GiB are needed, 4 GiB are there\n  try int4\n")


def test_a_bug_shows_how_to_see_more(probe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "bug"]) == 1
    message = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in message and "--traceback" in message and "File" not in message


@pytest.mark.parametrize("words", [["probe", "bug", "--traceback"], ["--traceback", "probe", "bug"]])
def test_traceback_on_request(probe: Path, words: list[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        main(words)


def test_interrupt_is_130(probe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "interrupt"]) == 130
    assert capsys.readouterr().err == "edgeport: interrupted\n"


def test_usage_errors_are_2(probe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe"]) == 2
    assert main([]) == 2
    assert main(["exprot"]) == 2
    assert "did you mean 'export'?" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"edgeport {__version__}\n"


def test_a_reader_that_goes_away_is_quiet(probe: Path) -> None:
    script = (
        "import sys; from edgeport.cli import COMMANDS, main;"
        "COMMANDS['probe'] = ('edgeport_probe_command', 'do as told'); sys.exit(main(['probe', 'pipe']))"
    )
    environment = {"PYTHONPATH": f"{probe}:{Path.cwd()}"}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait() == 141


def test_help_starts_quickly() -> None:
    """The best of five: a busy machine must not fail it, a heavy import must."""
    durations = []
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "edgeport", "--help"], capture_output=True, text=True, check=True
        )
        durations.append(time.perf_counter() - started)
    assert "export" in done.stdout
    assert min(durations) < HELP_LIMIT_S, durations


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_imports_the_spine_alone(name: str) -> None:
    script = (
        "import sys; from edgeport.cli import load_command;"
        f"command, parser = load_command({name!r}); assert callable(command.run);"
        "print(parser.format_help());"
        "print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'torch', 'onnx', 'openvino', 'gguf')"
        " or m.startswith(('edgeport.export', 'edgeport.runtimes', 'edgeport.devices'))], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: edgeport {name}" in done.stdout
    assert done.stderr == "[]\n"


def test_help_of_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--help"]) == 0
    assert capsys.readouterr().out == load_command("inspect")[1].format_help()
