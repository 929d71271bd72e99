"""Time one session the way llama-bench does, so that the figures can stand beside its own.

Tests are named as there: `pp512` feeds 512 random tokens to an empty cache in one piece and asks for the logits of the
last one; `tg128` feeds one random token 128 times; ` @ d64` says that 64 tokens were in the cache before the clock
started. Each test is warmed up once and the cache is cleared before each repetition. Tokenization and sampling are not
in any figure; time to first token ends when the most likely token is known. Raw samples are kept.
Definitions: ggml-org/llama.cpp, tools/llama-bench/README.md.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from edgeport.errors import UsageError
from edgeport.runtimes.session import Session

Clock = Callable[[], int]
NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of every engine; the defaults are llama-bench's."""

    n_prompt: int = 512
    n_gen: int = 128
    n_depth: int = 0
    repetitions: int = 5
    seed: int = 20260101

    def __post_init__(self) -> None:
        if min(self.n_prompt, self.n_gen, self.n_depth) < 0 or self.n_prompt + self.n_gen == 0:
            raise UsageError(
                f"nothing to measure: prompt {self.n_prompt}, generated {self.n_gen}, depth {self.n_depth} tokens",
                hint="lengths are 0 or more, and one of prompt and generated is more than 0",
            )
        if self.repetitions < 1:
            raise UsageError(f"repetitions must be 1 or more, not {self.repetitions}")

    @property
    def context_length(self) -> int:
        """Tokens the cache must hold: both tests run on the same session."""
        return self.n_depth + self.n_prompt + self.n_gen


@dataclass(frozen=True, slots=True)
class Samples:
    """One test: the time of each repetition, and within it of each decoded token (empty for a prompt test)."""

    test: str
    n_prompt: int
    n_gen: int
    n_depth: int
    test_time: str
    samples_ns: tuple[int, ...]
    token_ns: tuple[tuple[int, ...], ...] = ()
    ttft_ns: tuple[int, ...] = ()
    """Prompt in, most likely first token out; one per repetition of a prompt test."""

    @property
    def samples_ts(self) -> tuple[float, ...]:
        """Tokens per second of each repetition."""
        tokens = self.n_prompt + self.n_gen
        return tuple(NANOSECONDS * tokens / sample for sample in self.samples_ns)


def fit_workload(workload: Workload, context_length: int) -> Workload:
    """Shorten the tests to what the session can hold. Raises UsageError when the depth alone fills it."""
    room = context_length - workload.n_depth
    if room < 1:
        raise UsageError(
            f"depth {workload.n_depth} leaves no room in a context of {context_length} tokens",
            hint=f"use a depth below {context_length}",
        )
    return replace(workload, n_prompt=min(workload.n_prompt, room), n_gen=min(workload.n_gen, room))


def label(n_prompt: int, n_gen: int, *, n_depth: int = 0, asked: int | None = None) -> str:
    """`pp512`, `tg128 @ d64`; a shortened test says so: `pp256 (of 512)`."""
    name = f"pp{n_prompt}" if n_prompt else f"tg{n_gen}"
    depth = f" @ d{n_depth}" if n_depth else ""
    shortened = f" (of {asked})" if asked is not None and asked != n_prompt + n_gen else ""
    return name + depth + shortened


def random_tokens(count: int, vocab_size: int, *, seed: int) -> list[int]:
    """The same tokens for every engine: the generator is Python's, not the engine's."""
    generator = random.Random(seed)
    return [generator.randrange(vocab_size) for _ in range(count)]


def first_token_ns(session: Session, tokens: Sequence[int], *, clock: Clock = time.perf_counter_ns) -> int:
    """Time to the first token of a prompt fed to an empty session."""
    session.rewind(0)
    start = clock()
    session.feed(tokens)[-1].argmax()
    return clock() - start


def measure_prompt(session: Session, workload: Workload, *, clock: Clock = time.perf_counter_ns) -> Samples:
    """Prompt processing: one warm-up, then `repetitions` full prompts."""
    actual = fit_workload(workload, session.context_length)
    tokens = random_tokens(actual.n_prompt, session.vocab_size, seed=actual.seed)
    depth = random_tokens(actual.n_depth, session.vocab_size, seed=actual.seed + 1)
    samples_ns: list[int] = []
    ttft_ns: list[int] = []
    test_time = _now()
    _fill(session, depth)
    for _ in range(actual.repetitions + 1):
        session.rewind(len(depth))
        start = clock()
        logits = session.feed(tokens)
        fed = clock()
        logits[-1].argmax()
        samples_ns.append(fed - start)
        ttft_ns.append(clock() - start)
    return Samples(
        test=label(actual.n_prompt, 0, n_depth=actual.n_depth, asked=workload.n_prompt),
        n_prompt=actual.n_prompt,
        n_gen=0,
        n_depth=actual.n_depth,
        test_time=test_time,
        samples_ns=tuple(samples_ns[1:]),
        ttft_ns=tuple(ttft_ns[1:]),
    )


def measure_generation(
    session: Session, workload: Workload, *, clock: Clock = time.perf_counter_ns
) -> Samples:
    """Decoding token by token: one warm-up token, then `repetitions` runs of `n_gen` tokens."""
    actual = fit_workload(workload, session.context_length)
    tokens = random_tokens(actual.n_gen, session.vocab_size, seed=actual.seed)
    depth = random_tokens(actual.n_depth, session.vocab_size, seed=actual.seed + 1)
    test_time = _now()
    _fill(session, depth)
    session.feed(tokens[:1])
    token_ns: list[tuple[int, ...]] = []
    samples_ns: list[int] = []
    for _ in range(actual.repetitions):
        session.rewind(len(depth))
        ticks = [clock()]
        for token in tokens:
            session.feed((token,))
            ticks.append(clock())
        samples_ns.append(ticks[-1] - ticks[0])
        token_ns.append(tuple(after - before for before, after in zip(ticks, ticks[1:], strict=False)))
    return Samples(
        test=label(0, actual.n_gen, n_depth=actual.n_depth, asked=workload.n_gen),
        n_prompt=0,
        n_gen=actual.n_gen,
        n_depth=actual.n_depth,
        test_time=test_time,
        samples_ns=tuple(samples_ns),
        token_ns=tuple(token_ns),
    )


def _fill(session: Session, depth: Sequence[int]) -> None:
    """Once for all repetitions, which rewind to the depth: filling a long cache takes longer than the test itself."""
    session.rewind(0)
    if depth:
        session.feed(depth)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
