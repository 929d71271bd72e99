"""The loop of a soak: the same greedy prompts again and again over one session, and what each pass took.

It keeps nothing from one pass to the next but the session: memory that grows is the engine's, not the instrument's. The loop takes
any Session, so that a test can wrap a real one in a fault and see it found.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeport.manifest import to_json
from edgeport.runtimes.bench.measure import random_tokens
from edgeport.runtimes.bench.memory import sample_memory
from edgeport.runtimes.bench.statistics import percentiles
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.session import Session, SessionOptions

PROMPT_SHARES = (1.0, 0.5, 0.25)
"""Prompts of several lengths, because engines keep buffers by the shape of what they were fed."""
SEED = 20260101


@dataclass(frozen=True, slots=True)
class SoakPass:
    """One prompt read and continued greedily.

    prompt: which of them. seconds: from the loop's begin to this pass' end. p50_ms, p95_ms: of the tokens after the first.
    """

    prompt: int
    seconds: float
    first_token_ms: float
    p50_ms: float
    p95_ms: float
    tokens: tuple[int, ...]
    is_finite: bool
    resident_bytes: int | None
    anonymous_bytes: int | None


def passes(format_name: str, path: str, *, n_prompt: int, n_gen: int, threads: int) -> Iterator[Any]:
    """In a child process: SoakPass as JSON, without end."""
    options = SessionOptions(threads=threads, context_length=n_prompt + n_gen)
    session = open_session(format_name, Path(path), options)
    for item in soak_passes(session, soak_prompts(n_prompt, session.vocab_size), n_gen):
        yield to_json(item)


def soak_prompts(n_prompt: int, vocab_size: int) -> list[list[int]]:
    return [
        random_tokens(max(1, round(n_prompt * share)), vocab_size, seed=SEED + index)
        for index, share in enumerate(PROMPT_SHARES)
    ]


def soak_passes(session: Session, prompts: Sequence[Sequence[int]], n_gen: int) -> Iterator[SoakPass]:
    """Without end; the prompts take turns. `n_gen` is 2 or more: the first token is the prompt's."""
    begin = time.perf_counter()
    count = 0
    while True:
        yield _one_pass(session, prompts, count % len(prompts), n_gen, begin)
        count += 1


def _one_pass(
    session: Session, prompts: Sequence[Sequence[int]], which: int, n_gen: int, begin: float
) -> SoakPass:
    session.rewind(0)
    pending = prompts[which]
    tokens, ticks, is_finite = [], [time.perf_counter()], True
    for _ in range(n_gen):
        logits = session.feed(pending)[-1]
        token = int(logits.argmax())
        ticks.append(time.perf_counter())
        is_finite = is_finite and bool(np.isfinite(logits).all())
        tokens.append(token)
        pending = (token,)
    spans = [1000 * (after - before) for before, after in zip(ticks, ticks[1:], strict=False)]
    p50, p95 = percentiles(spans[1:], (50, 95))
    gc.collect()  # also empties Python's free lists, which fill for thousands of passes and are not the engine's
    memory = sample_memory()
    return SoakPass(
        prompt=which,
        seconds=ticks[-1] - begin,
        first_token_ms=spans[0],
        p50_ms=p50,
        p95_ms=p95,
        tokens=tuple(tokens),
        is_finite=is_finite,
        resident_bytes=memory.resident_bytes,
        anonymous_bytes=memory.anonymous_bytes,
    )
