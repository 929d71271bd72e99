"""A soak that gets Ctrl-C when its third pass is told. A program of its own: the signal must not meet the process of the tests.

python -m tests.unit.bench.interrupted_soak ARTIFACT     # prints the report as JSON
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeport.manifest import to_json
from edgeport.progress import Progress
from edgeport.runtimes.bench.soak_run import SoakOptions, run_soak


class ThirdPass(Progress):
    """Presses Ctrl-C inside the loop, however slow the machine."""

    @contextmanager
    def stage(self, title: str, total: float | None = None) -> Iterator[Any]:
        told: list[float] = []

        class Watcher:
            done = 0

            def advance(self, amount: float = 1) -> None:
                told.append(amount)
                if len(told) == 3:
                    signal.raise_signal(signal.SIGINT)

        yield Watcher()


if __name__ == "__main__":
    # a shell that starts the tests in the background has them ignore SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = SoakOptions(600.0, format="gguf", n_prompt=32, n_gen=8, threads=1)
    print(json.dumps(to_json(run_soak(Path(sys.argv[1]), options, progress=ThirdPass()))))
