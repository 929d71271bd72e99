"""Progress: what is drawn where, and that it never gets in the way."""

from __future__ import annotations

import io
import re
import time

import pytest

from edgeport import progress
from edgeport.progress import NO_PROGRESS, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real intervals, a hundred times shorter."""
    monkeypatch.setattr(progress, "TERMINAL_INTERVAL_S", 0.01)
    monkeypatch.setattr(progress, "QUIET_START_S", 0.02)
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.1)


def test_terminal_shows_one_self_overwriting_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(stream).stage("quantize", total=4) as stage:
        stage.advance(3)
        time.sleep(0.1)
    drawn = stream.getvalue()
    assert re.search(r"\rquantize  3/4  75%  [\d.]+/s  ", drawn)
    assert drawn.count("\n") == 1
    assert re.search(r"\r\x1b\[Kquantize: 3 in \d+ ms\n$", drawn)


def test_log_file_gets_sparse_lines_without_control_characters() -> None:
    stream = io.StringIO()
    with Progress(stream).stage("pack", total=10) as stage:
        for _ in range(10):
            stage.advance()
            time.sleep(0.05)
    lines = stream.getvalue().splitlines()
    assert 2 <= len(lines) <= 6, lines  # 0.5 s at one line per 0.1 s, and the closing one
    assert lines[0].startswith("pack  ")
    assert lines[-1].startswith("pack: 10 in ")
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_short_stages_say_nothing_in_a_log_file() -> None:
    stream = io.StringIO()
    for _ in range(5):
        with Progress(stream).stage("open"):
            pass
    assert stream.getvalue() == ""


def test_stage_without_advance_still_shows_its_clock() -> None:
    stream = io.StringIO()
    with Progress(stream).stage("compile"):
        time.sleep(0.15)
    assert re.match(r"compile  \d+ ms\n", stream.getvalue())


def test_time_left_follows_from_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = progress.Stage("train", total=100)
    stage.advance(25)
    monkeypatch.setattr(progress.time, "monotonic", lambda: stage.started + 10.0)
    assert stage.line() == "train  25/100  25%  2.5/s  30.0 s left"


def test_failed_stage_says_where_it_stopped_and_lets_the_error_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with pytest.raises(ZeroDivisionError), Progress(stream).stage("solve", total=9) as stage:
        stage.advance(2)
        time.sleep(0.05)
        raise ZeroDivisionError
    assert re.search(r"solve: stopped 2 in \d+ ms\n$", stream.getvalue())


def test_only_the_innermost_stage_is_drawn() -> None:
    stream = io.StringIO()
    reporter = Progress(stream)
    with reporter.stage("outer"), reporter.stage("inner"):
        time.sleep(0.06)
    assert "inner" in stream.getvalue()
    assert "outer  " not in stream.getvalue()


def test_quiet_draws_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with NO_PROGRESS.stage("silent", total=1) as stage:
        stage.advance()
        time.sleep(0.15)
    assert stage.done == 1
    assert capsys.readouterr() == ("", "")


def test_a_closed_stream_does_not_end_the_work() -> None:
    stream = io.StringIO()
    with Progress(stream).stage("long") as stage:
        stream.close()
        time.sleep(0.05)
        stage.advance()
    assert stage.done == 1
