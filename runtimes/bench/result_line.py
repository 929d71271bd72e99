"""One test of one file, by whatever tool: the row in which edgeport's figures and those of others stand side by side.

Fields that llama-bench has carry its names. What a tool does not say is None, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeport.runtimes.bench.measure import label
from edgeport.runtimes.bench.speed import BenchLine

EDGEPORT = "edgeport"


@dataclass(frozen=True, slots=True)
class ResultLine:
    """avg_ts, stddev_ts: tokens per second over all sequences, mean and sample deviation of the repetitions.

    source: the tool. source_file: where it was read from, empty for what was measured now. n_sequences: at once. note: what one
    has to know to compare it, or why there is no figure.
    """

    source: str
    test: str
    n_prompt: int
    n_gen: int
    n_depth: int = 0
    n_sequences: int = 1
    avg_ts: float | None = None
    stddev_ts: float | None = None
    avg_ns: int | None = None
    stddev_ns: int | None = None
    samples_ns: tuple[int, ...] = ()
    samples_ts: tuple[float, ...] = ()
    build_commit: str | None = None
    cpu_info: str | None = None
    gpu_info: str | None = None
    backends: str | None = None
    model_filename: str | None = None
    model_type: str | None = None
    model_size: int | None = None
    model_n_params: int | None = None
    n_threads: int | None = None
    context_length: int | None = None
    test_time: str | None = None
    format: str | None = None
    weights_id: str | None = None
    source_file: str = ""
    note: str = ""


def result_line(line: BenchLine) -> ResultLine:
    """What was measured now."""
    return ResultLine(
        source=EDGEPORT,
        test=line.test,
        n_prompt=line.n_prompt,
        n_gen=line.n_gen,
        n_depth=line.n_depth,
        avg_ts=line.avg_ts,
        stddev_ts=line.stddev_ts,
        avg_ns=line.avg_ns,
        stddev_ns=line.stddev_ns,
        samples_ns=line.samples_ns,
        samples_ts=line.samples_ts,
        build_commit=line.build_commit,
        cpu_info=line.cpu_info,
        backends=line.backends,
        model_filename=line.model_filename,
        model_type=line.model_type,
        model_size=line.model_size,
        model_n_params=line.model_n_params,
        n_threads=line.n_threads,
        context_length=line.context_length,
        test_time=line.test_time,
        format=line.format,
        weights_id=line.weights_id,
    )


def label_of_test(n_prompt: int, n_gen: int, n_depth: int = 0) -> str:
    """llama-bench's name of a test: `pp512`, `tg128 @ d64`, `pp512+tg128` for both in one figure."""
    if n_prompt and n_gen:
        depth = f" @ d{n_depth}" if n_depth else ""
        return f"{label(n_prompt, 0)}+{label(0, n_gen)}{depth}"
    return label(n_prompt, n_gen, n_depth=n_depth)


def machines(lines: Sequence[ResultLine]) -> tuple[str, ...]:
    """The processors that were named: more than one, and rates are not to be compared."""
    return tuple(dict.fromkeys(line.cpu_info for line in lines if line.cpu_info))
