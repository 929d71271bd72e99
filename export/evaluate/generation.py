"""Greedy continuations of the source and of a container: where they part, whether they loop, and how they read.

Both start from the same tokens and take the argmax each time, so the first divergent token says how long the container
writes what its source would have written. A near tie may part them early without harm; endless loops and the samples
side by side show whether it is harm. Small models loop by themselves, so loops are counted in the source as well.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeport.errors import RuntimeFailure
from edgeport.export.evaluate.repetition import ends_in_loop
from edgeport.runtimes.session import Session


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt side by side; first_divergence is the index of the first new token that differs, None for never."""

    prompt: str
    source: str
    container: str
    first_divergence: int | None


@dataclass(frozen=True, slots=True)
class GenerationReport:
    """first_divergence: one index per prompt, None where all tokens agree.

    median_first_divergence: a prompt that never diverges counts as later than any index; None when the median never does.
    never_diverged, loops, source_loops, new_loops: shares of the prompts. loops: the container's text ends in a loop
    (`repetition.py`); new_loops: it does and the source's does not. new_tokens: generated per prompt at most.
    """

    prompts: int
    new_tokens: int
    prompts_sha256: str
    first_divergence: tuple[int | None, ...]
    median_first_divergence: float | None
    never_diverged: float
    loops: float
    source_loops: float
    new_loops: float
    samples: tuple[Sample, ...] = ()


def continue_greedily(
    session: Session, prompt: Sequence[int], new_tokens: int, stop_ids: Sequence[int]
) -> list[int]:
    """Up to `new_tokens` argmax tokens after `prompt`; a stop token is the last one and is kept. Raises RuntimeFailure."""
    session.rewind(0)
    logits = session.feed(prompt)[-1]
    tokens: list[int] = []
    while True:
        if not np.isfinite(logits).all():
            raise RuntimeFailure("the engine returned logits that are not finite")
        tokens.append(int(logits.argmax()))
        if tokens[-1] in stop_ids or len(tokens) == new_tokens:
            return tokens
        logits = session.feed(tokens[-1:])[-1]


def first_divergence(source: Sequence[int], container: Sequence[int]) -> int | None:
    """Index of the first token that differs, or at which one has ended; None when they are equal."""
    for index, (expected, got) in enumerate(zip(source, container, strict=False)):
        if expected != got:
            return index
    return None if len(source) == len(container) else min(len(source), len(container))


def compare_generations(
    source: Sequence[Sequence[int]],
    container: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    prompts_sha256: str,
) -> GenerationReport:
    """source, container: new tokens per prompt, in the same order. Raises ValueError when they are not as many."""
    parted = [first_divergence(*pair) for pair in zip(source, container, strict=True)]
    source_loops, loops = [ends_in_loop(item) for item in source], [ends_in_loop(item) for item in container]
    middle = statistics.median(float("inf") if index is None else index for index in parted)
    count = len(parted)
    return GenerationReport(
        prompts=count,
        new_tokens=new_tokens,
        prompts_sha256=prompts_sha256,
        first_divergence=tuple(parted),
        median_first_divergence=None if middle == float("inf") else float(middle),
        never_diverged=parted.count(None) / count,
        loops=sum(loops) / count,
        source_loops=sum(source_loops) / count,
        new_loops=sum(new and not old for new, old in zip(loops, source_loops, strict=True)) / count,
    )
