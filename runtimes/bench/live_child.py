"""A child process that stays: a generator runs in it, and each value it yields comes back as JSON.

`run_isolated` gives one answer and ends. A comparison needs two loaded models that take turns, a soak wants to tell how it goes
while it goes. The child's generator is driven as `generator.send` would drive it here: one value in, one value out. The engine's
own prints go to a log, of which the last lines are in the error when the process dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from edgeport.errors import RuntimeFailure
from edgeport.runtimes.isolation import child_environment, error_of, how_it_ended, log_tail, told_error

TIMEOUT_S = 3600.0
ENDING_S = 2.0


class LiveChild:
    """Runs `module:function(**arguments)`, a generator function, in a fresh process until `close`."""

    def __init__(self, target: str, arguments: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S) -> None:
        self.target = target
        self.is_finished = False
        self._timeout_s = timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="edgeport-live-")
        self._log = Path(self._folder.name) / "stderr.txt"
        request = Path(self._folder.name) / "request.json"
        request.write_text(json.dumps({"target": target, "arguments": dict(arguments)}), encoding="utf-8")
        child_in, ours_out = os.pipe()
        ours_in, child_out = os.pipe()
        command = [
            sys.executable,
            "-m",
            "edgeport.runtimes.bench.live_child",
            str(request),
            str(child_in),
            str(child_out),
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child_environment({}),
                pass_fds=(child_in, child_out),
            )
        os.close(child_in)
        os.close(child_out)
        self._to_child = os.fdopen(ours_out, "w", encoding="utf-8")
        self._from_child = os.fdopen(ours_in, "r", encoding="utf-8")

    @property
    def process_id(self) -> int:
        return self._process.pid

    def next(self, value: Any = None) -> Any:
        """Hand `value` to the generator and return what it yields, None when it has ended (`is_finished`).

        Raises RuntimeFailure when the process died, raised or took too long; an EdgeportError of the child as it is.
        """
        with contextlib.suppress(BrokenPipeError):  # it has died: the reading says how
            self._to_child.write(json.dumps(value) + "\n")
            self._to_child.flush()
        ready, _, _ = select.select([self._from_child], [], [], self._timeout_s)
        if not ready:
            raise RuntimeFailure(
                f"{self.target} did not answer within {self._timeout_s:g} s{log_tail(self._log)}"
            )
        line = self._from_child.readline()
        if not line.endswith("\n"):
            code = self._process.wait()
            self.is_finished = True
            raise RuntimeFailure(f"{self.target} {how_it_ended(code)}{log_tail(self._log)}")
        document = json.loads(line)
        if "error" in document:
            self.is_finished = True
            raise error_of(self.target, document["error"], self._log)
        self.is_finished = "value" not in document
        return document.get("value")

    def close(self) -> None:
        """End the process: by the end of its input, and when that does not help, by force."""
        for stream in (self._to_child, self._from_child):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        try:
            self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> LiveChild:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(request: Path, read_end: int, write_end: int) -> int:
    """The child's side. Ctrl-C on the terminal reaches it too, and is the parent's to handle."""
    from edgeport.lazy import load

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    document = json.loads(request.read_text(encoding="utf-8"))
    with (
        os.fdopen(read_end, encoding="utf-8") as asked,
        os.fdopen(write_end, "w", encoding="utf-8") as answers,
    ):

        def answer(reply: Mapping[str, Any]) -> None:
            answers.write(json.dumps(reply) + "\n")
            answers.flush()

        try:
            generator: Generator[Any, Any, None] = load(document["target"])(**document["arguments"])
            begun = False
            for line in asked:
                value = generator.send(json.loads(line) if begun else None)
                begun = True
                answer({"value": value})
            generator.close()
        except StopIteration:
            answer({"end": True})
        except BrokenPipeError:
            return 0  # the parent has gone
        except Exception as error:  # noqa: BLE001 - a process boundary: every error has to cross it as text
            answer({"error": told_error(error)})
            sys.stderr.flush()
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(_serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
