"""The conversation of `edgeport run --chat`: a line in, an answer out, until the input ends.

Ctrl-C stops the answer that is being written and nothing else; a second one, or one at the prompt, ends the program.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeport.runtimes import GenerationOptions, Model, TokenStream
    from edgeport.runtimes.conversation import Overflow


def talk(
    model: Model, options: GenerationOptions, system: str | None, overflow: Overflow, stats: bool
) -> int:
    """Read a line, answer, repeat; an empty line or the end of input ends it. What was said stays in the conversation."""
    opening = [{"role": "system", "content": system}] if system else []
    messages = list(opening)
    while True:
        sys.stderr.write("> ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line.strip():
            return 0
        messages.append({"role": "user", "content": line.rstrip("\n")})
        stream = model.stream_chat(messages, options, overflow=overflow)
        with stopped_by_ctrl_c(stream):
            text = show(stream, stats)
        messages = [*opening, *messages[len(opening) + len(stream.dropped_messages) :]]
        messages.append({"role": "assistant", "content": text})


def show(stream: TokenStream, stats: bool) -> str:
    """Write tokens as they come, then the speed to stderr; return the text."""
    times, pieces, reason = [], [], None
    for token in stream:
        times.append(time.perf_counter())
        pieces.append(token.text)
        reason = token.finish_reason
        sys.stdout.write(token.text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    if stream.dropped_messages:
        say(f"the context is full: the oldest {len(stream.dropped_messages)} messages were left out")
    if times and stream.begun_s is not None:
        say(_speed(stream.begun_s, times))
    if stats:
        ended = reason or "stopped"
        say(f"prompt of {stream.prompt_tokens} tokens, {stream.cached_tokens} from the cache; ended: {ended}")
    return "".join(pieces)


@contextmanager
def stopped_by_ctrl_c(stream: TokenStream) -> Iterator[None]:
    """The first Ctrl-C stops `stream`, the second raises KeyboardInterrupt as always."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        stream.cancel()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def say(text: str) -> None:
    print(f"edgeport: {text}", file=sys.stderr)


def _speed(begin_s: float, times: list[float]) -> str:
    first = f"first token after {(times[0] - begin_s) * 1000:.0f} ms"
    if len(times) < 2:
        return f"{len(times)} token, {first}"
    rate = (len(times) - 1) / (times[-1] - times[0])
    return f"{len(times)} tokens, {first}, then {rate:.1f} tokens/s"
