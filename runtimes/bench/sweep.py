"""What a sweep measures: every combination of the lists that were asked for, one row each. Pure.

Lists are written as llama-bench takes them: `128,512`, `first-last`, `first-last+step`, `first-last*factor`. As there, prompts and
generations are tests of their own, and 0 of either is no test. Spec: ggml-org/llama.cpp, tools/llama-bench/README.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgeport.errors import UsageError
from edgeport.runtimes.bench.result_line import label_of_test

MOST_ROWS = 1000
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?:([+*])(\d+))?)?")


@dataclass(frozen=True, slots=True)
class Combination:
    """One row. context_length: None is what the test needs."""

    format: str
    threads: int
    context_length: int | None
    n_sequences: int
    n_depth: int
    n_prompt: int
    n_gen: int

    @property
    def test(self) -> str:
        return label_of_test(self.n_prompt, self.n_gen, self.n_depth)

    @property
    def needed_tokens(self) -> int:
        return self.n_depth + self.n_prompt + self.n_gen


@dataclass(frozen=True, slots=True)
class Sweep:
    """contexts: (None,) is what each test needs. sequences: at once."""

    prompts: tuple[int, ...] = (512,)
    generations: tuple[int, ...] = (128,)
    depths: tuple[int, ...] = (0,)
    threads: tuple[int, ...] = (1,)
    contexts: tuple[int | None, ...] = (None,)
    sequences: tuple[int, ...] = (1,)

    @property
    def is_single(self) -> bool:
        """Whether one workload holds it: one value everywhere, nothing a plain benchmark has no setting for."""
        lists = (self.prompts, self.generations, self.depths, self.threads)
        return (
            all(len(values) == 1 for values in lists) and self.contexts == (None,) and self.sequences == (1,)
        )


def combinations(sweep: Sweep, formats: Sequence[str]) -> tuple[Combination, ...]:
    """In the order of llama-bench: the tests of one setting stand together. Raises UsageError for none and for too many."""
    tests = [(tokens, 0) for tokens in sweep.prompts if tokens] + [
        (0, tokens) for tokens in sweep.generations if tokens
    ]
    found = tuple(
        Combination(format_name, threads, context, sequences, depth, n_prompt, n_gen)
        for format_name in formats
        for threads in sweep.threads
        for context in sweep.contexts
        for sequences in sweep.sequences
        for depth in sweep.depths
        for n_prompt, n_gen in tests
    )
    if not found:
        raise UsageError("nothing to measure", hint="one of the prompt and generation lengths is more than 0")
    if len(found) > MOST_ROWS:
        raise UsageError(
            f"these lists have {len(found)} combinations, at most {MOST_ROWS} are measured",
            hint="use fewer values",
        )
    return found


def parse_values(texts: Iterable[str], name: str, *, lowest: int = 0) -> tuple[int, ...]:
    """`["128,512", "1-8*2"]` -> (128, 512, 1, 2, 4, 8), each once. Raises UsageError for what is no list or range."""
    values = [value for text in texts for part in text.split(",") for value in _range(part.strip(), name)]
    low = [value for value in values if value < lowest]
    if low or not values:
        raise UsageError(f"{name} is {low[0] if low else 'empty'}", hint=f"it is {lowest} or more")
    return tuple(dict.fromkeys(values))


def _range(text: str, name: str) -> list[int]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{name} is {text!r}",
            hint="write numbers, lists and ranges: 512, 128,512, 1-8, 0-4096+1024, 1-64*2",
        )
    first, last = int(match[1]), int(match[2] or match[1])
    by, step = match[3] or "+", int(match[4] or 1)
    grows = step >= 1 if by == "+" else step >= 2 and first >= 1
    if last < first or not (grows or first == last):
        raise UsageError(
            f"{name} is {text!r}, a range that never ends", hint="it goes up: 1-8, 0-4096+1024, 1-64*2"
        )
    values: list[int] = []
    while first <= last and len(values) <= MOST_ROWS:
        values.append(first)
        first = first + step if by == "+" else first * max(step, 2)
    return values
