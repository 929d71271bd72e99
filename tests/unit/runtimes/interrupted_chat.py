"""`edgeport run --chat` that gets Ctrl-C while it writes its first answer: a program of its own, as interrupted_soak.py.

python -m tests.unit.runtimes.interrupted_chat CONTAINER < QUESTIONS
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from edgeport.cli import main
from edgeport.runtimes.reference import ReferenceSession

calls = []
feed = ReferenceSession.feed


def interrupted(session: ReferenceSession, *arguments: Any, **options: Any) -> Any:
    calls.append(1)
    if len(calls) == 3:
        signal.raise_signal(signal.SIGINT)
    return feed(session, *arguments, **options)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ReferenceSession.feed = interrupted  # type: ignore[method-assign]
    code = main(["run", sys.argv[1], "--chat", "--max-tokens", "30", "--stats", "--check", "never"])
    restored = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    sys.exit(code if restored else 70)
