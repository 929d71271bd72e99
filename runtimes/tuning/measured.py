"""The child's side of tuning: one session with its settings, timed on demand, and the logits it gives for a fixed text."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

PROBE_TOKENS = 48
"""Positions at which logits are compared; enough to tell rounding from a coarser cache."""
PROBE_LENGTH = 96


def serve(
    format_name: str, path: str, settings: Mapping[str, Any], context_length: int
) -> Generator[dict[str, Any], dict[str, Any], None]:
    """Opens the session; then each `{"test": "prefill"|"decode", "tokens": n}` is answered with `{"ns": ...}` and
    `{"test": "probe", "folder": ...}` with the name of a .npy file of log-probabilities [PROBE_TOKENS, vocab_size]."""
    from edgeport.runtimes.bench.measure import random_tokens
    from edgeport.runtimes.engine_settings import settings_from
    from edgeport.runtimes.engines import open_session
    from edgeport.runtimes.session import SessionOptions

    options = SessionOptions(context_length=context_length, settings=settings_from(settings))
    session = open_session(format_name, Path(path), options)
    tokens = random_tokens(context_length, session.vocab_size, seed=7)
    asked = yield {"vocab_size": session.vocab_size}
    while True:
        if asked["test"] == "probe":
            asked = yield {"file": _probe(session, tokens, Path(asked["folder"]))}
            continue
        count, depth = asked["tokens"], asked.get("depth", 0)
        if asked["test"] == "prefill":
            session.rewind(0)
            begin = time.perf_counter_ns()
            session.feed(tokens[:count])
        else:
            if session.position < depth:
                session.feed(tokens[session.position : depth])
            session.rewind(depth)
            begin = time.perf_counter_ns()
            for token in tokens[depth : depth + count]:
                session.feed((token,))
        asked = yield {"ns": time.perf_counter_ns() - begin}


def _probe(session: Any, tokens: list[int], folder: Path) -> str:
    """Half of the positions fed as a prompt and half one by one, because kernels differ between the two."""
    import numpy as np

    session.rewind(0)
    length = min(PROBE_LENGTH, session.context_length)
    shown = min(PROBE_TOKENS, length)
    half = shown // 2
    if length > shown:
        session.feed(tokens[: length - shown])
    rows = [session.feed(tokens[length - shown : length - half], all_logits=True)]
    rows += [session.feed((token,)) for token in tokens[length - half : length]]
    logits = np.concatenate(rows).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    file = folder / f"probe-{time.monotonic_ns()}.npy"
    np.save(file, logits)
    return str(file)
