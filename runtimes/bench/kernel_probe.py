"""Time one container for a fit of kernel rates: decoding and prompts, shallow and deep, in one pass over one sequence.

A pass is: decode some tokens, read a prompt, read another behind it, decode again. Nothing is rewound but to the beginning,
so that no engine copies its cache between the clocks. Before it comes a short one as a warm-up. Runs in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError
from edgeport.manifest import from_json, to_json
from edgeport.runtimes.bench.child import import_engine
from edgeport.runtimes.bench.measure import Clock, random_tokens
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.session import Session, SessionOptions

SEED = 20260101


@dataclass(frozen=True, slots=True)
class ProbeSteps:
    """prompts: of `prompt_tokens` each, one behind the other. decode_tokens: before them and again after them."""

    decode_tokens: int = 32
    prompt_tokens: int = 256
    prompts: int = 4
    repetitions: int = 5

    def __post_init__(self) -> None:
        if min(self.decode_tokens, self.prompt_tokens, self.prompts, self.repetitions) < 1:
            raise UsageError(f"every step must be at least 1: {self}")

    @property
    def context_length(self) -> int:
        return 2 * self.decode_tokens + self.prompts * self.prompt_tokens


@dataclass(frozen=True, slots=True)
class TimedDecode:
    """depth: tokens in the cache before the first one. token_ns: of each token, one tuple per repetition."""

    depth: int
    token_ns: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class TimedPrompt:
    """samples_ns: one per repetition."""

    depth: int
    tokens: int
    samples_ns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KernelTimes:
    decode: tuple[TimedDecode, ...]
    prompts: tuple[TimedPrompt, ...]


def measure_kernels(format_name: str, path: str, steps: Mapping[str, Any], *, threads: int) -> Any:
    """KernelTimes as JSON."""
    asked: ProbeSteps = from_json(ProbeSteps, steps)
    import_engine(format_name)
    options = SessionOptions(threads=threads, context_length=asked.context_length)
    session = open_session(format_name, Path(path), options)
    try:
        return to_json(time_session(session, asked))
    finally:
        session.close()


def time_session(session: Session, steps: ProbeSteps, *, clock: Clock = time.perf_counter_ns) -> KernelTimes:
    _one_pass(session, replace(steps, decode_tokens=1, prompts=1), clock)
    passes = [_one_pass(session, steps, clock) for _ in range(steps.repetitions)]
    after = steps.decode_tokens + steps.prompts * steps.prompt_tokens
    return KernelTimes(
        decode=(
            TimedDecode(0, tuple(done.shallow_ns for done in passes)),
            TimedDecode(after, tuple(done.deep_ns for done in passes)),
        ),
        prompts=tuple(
            TimedPrompt(
                steps.decode_tokens + index * steps.prompt_tokens,
                steps.prompt_tokens,
                tuple(done.prompts_ns[index] for done in passes),
            )
            for index in range(steps.prompts)
        ),
    )


@dataclass(frozen=True, slots=True)
class _Pass:
    shallow_ns: tuple[int, ...]
    prompts_ns: tuple[int, ...]
    deep_ns: tuple[int, ...]


def _one_pass(session: Session, steps: ProbeSteps, clock: Clock) -> _Pass:
    session.rewind(0)
    single = random_tokens(2 * steps.decode_tokens, session.vocab_size, seed=SEED)
    shallow = _decode(session, single[: steps.decode_tokens], clock)
    prompts = []
    for index in range(steps.prompts):
        tokens = random_tokens(steps.prompt_tokens, session.vocab_size, seed=SEED + 1 + index)
        start = clock()
        session.feed(tokens)
        prompts.append(clock() - start)
    return _Pass(shallow, tuple(prompts), _decode(session, single[steps.decode_tokens :], clock))


def _decode(session: Session, tokens: Sequence[int], clock: Clock) -> tuple[int, ...]:
    ticks = [clock()]
    for token in tokens:
        session.feed((token,))
        ticks.append(clock())
    return tuple(after - before for before, after in zip(ticks, ticks[1:], strict=False))
