"""One side of a comparison in its own live process: it does one repetition whenever it is its turn."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from edgeport.manifest import from_json
from edgeport.runtimes.bench.child import import_engine
from edgeport.runtimes.bench.measure import Workload, random_tokens
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.session import SessionOptions


def repetitions(
    format_name: str, path: str, workload: Mapping[str, Any], options: Mapping[str, Any]
) -> Generator[int, str, None]:
    """In the child: the nanoseconds of opening the side, then of one repetition for each `prompt` or `generation` it is sent."""
    asked: Workload = from_json(Workload, workload)
    import_engine(format_name)
    opening = time.perf_counter_ns()
    session = open_session(format_name, Path(path), from_json(SessionOptions, options))
    loaded_ns = time.perf_counter_ns() - opening
    prompt = random_tokens(asked.n_prompt, session.vocab_size, seed=asked.seed)
    written = random_tokens(asked.n_gen, session.vocab_size, seed=asked.seed)
    depth = random_tokens(asked.n_depth, session.vocab_size, seed=asked.seed + 1)
    if depth:
        session.feed(depth)
    test = yield loaded_ns
    while True:
        session.rewind(len(depth))
        start = time.perf_counter_ns()
        if test == "prompt":
            session.feed(prompt)
        else:
            for token in written:
                session.feed((token,))
        test = yield time.perf_counter_ns() - start
