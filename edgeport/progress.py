"""Progress of long work on stderr: one self-overwriting line on a terminal, a sparse line elsewhere.

    progress = Progress()
    with progress.stage("quantize", total=30) as stage:
        stage.advance()

A stage shorter than two seconds prints nothing in a log file. Outside a terminal a line comes at most every five
seconds, and one more when a stage of five seconds or longer ends. Drawing happens in a thread of its own, so that a
stage stuck in native code still shows its clock, and `advance` costs one addition.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from edgeport.units import format_seconds

TERMINAL_INTERVAL_S = 0.2
QUIET_START_S = 2.0
PLAIN_INTERVAL_S = 5.0


class Stage:
    """One running piece of work; `total` is in whatever the caller counts, None when it is not known."""

    def __init__(self, title: str, total: float | None) -> None:
        self.title = title
        self.total = total
        self.done: float = 0
        self.started = time.monotonic()

    def advance(self, count: float = 1) -> None:
        self.done += count

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def line(self) -> str:
        """`quantize  12/30  40%  3.2/s  5.6 s left`; parts that are not known yet are left out."""
        parts = [self.title]
        rate = self.done / self.elapsed_s if self.elapsed_s > 0 else 0.0
        if self.total:
            parts += [f"{self.done:g}/{self.total:g}", f"{100 * self.done / self.total:.0f}%"]
        elif self.done:
            parts.append(f"{self.done:g}")
        if rate:
            parts.append(f"{rate:.3g}/s" if rate < 1000 else f"{rate:.0f}/s")
        if self.total and rate and self.elapsed_s >= 1:
            parts.append(f"{format_seconds(max(0.0, self.total - self.done) / rate)} left")
        else:
            parts.append(format_seconds(self.elapsed_s))
        return "  ".join(parts)

    def closing_line(self, finished: bool) -> str:
        counted = f" {self.done:g}" if self.done else ""
        word = "" if finished else " stopped"
        return f"{self.title}:{word}{counted} in {format_seconds(self.elapsed_s)}"


class Progress:
    """Where stages are drawn. `stream` None means stderr as it is when a stage starts; `quiet` draws nothing."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._active: list[Stage] = []
        self._lock = threading.Lock()
        self._last_plain = float("-inf")

    @contextmanager
    def stage(self, title: str, total: float | None = None) -> Iterator[Stage]:
        """Show `title` until the block ends. Stages may be nested: the innermost is the one drawn."""
        stage = Stage(title, total)
        if self._quiet:
            yield stage
            return
        stream = self._stream if self._stream is not None else sys.stderr
        stop = threading.Event()
        drawer = threading.Thread(target=self._draw_until, args=(stage, stream, stop), daemon=True)
        self._active.append(stage)
        drawer.start()
        finished = False
        try:
            yield stage
            finished = True
        finally:
            stop.set()
            drawer.join()
            self._active.remove(stage)
            self._close(stage, stream, finished)

    def _draw_until(self, stage: Stage, stream: TextIO, stop: threading.Event) -> None:
        terminal = _is_terminal(stream)
        wait = TERMINAL_INTERVAL_S if terminal else QUIET_START_S
        while not stop.wait(wait):
            with self._lock:
                if not self._active or self._active[-1] is not stage:
                    continue
                if terminal:
                    columns = shutil.get_terminal_size().columns
                    _write(stream, f"\r{stage.line()[: columns - 1]}\x1b[K")
                elif time.monotonic() - self._last_plain >= PLAIN_INTERVAL_S:
                    self._last_plain = time.monotonic()
                    _write(stream, stage.line() + "\n")

    def _close(self, stage: Stage, stream: TextIO, finished: bool) -> None:
        with self._lock:
            if _is_terminal(stream):
                kept = stage.closing_line(finished) + "\n" if stage.elapsed_s >= QUIET_START_S else ""
                _write(stream, f"\r\x1b[K{kept}")
            elif stage.elapsed_s >= PLAIN_INTERVAL_S:
                self._last_plain = time.monotonic()
                _write(stream, stage.closing_line(finished) + "\n")


def _is_terminal(stream: TextIO) -> bool:
    return not stream.closed and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _write(stream: TextIO, text: str) -> None:
    """A log that went away (closed pipe, closed file) must not end the work it reports on."""
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        pass


NO_PROGRESS = Progress(quiet=True)
