"""llama-bench's records, and our own, which have its fields. Spec: ggml-org/llama.cpp, tools/llama-bench/README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeport.runtimes.bench.imported_numbers import number, required, text_or_none, whole
from edgeport.runtimes.bench.result_line import EDGEPORT, ResultLine, label_of_test

LLAMA_BENCH_KEYS = ("n_prompt", "n_gen", "avg_ts", "stddev_ts")
LLAMA_BENCH = "llama-bench"


def llama_bench_line(record: Mapping[str, Any], name: str) -> ResultLine:
    """One object of its JSON, or one row of its CSV, in which every value is text."""
    n_prompt, n_gen = (round(required(record[key], key)) for key in ("n_prompt", "n_gen"))
    n_depth = whole(record.get("n_depth")) or 0
    ours = "weights_id" in record
    build = text_or_none(record.get("build_commit"))
    return ResultLine(
        source=str(record.get("source") or EDGEPORT) if ours else LLAMA_BENCH,
        source_file=name,
        test=str(record.get("test") or label_of_test(n_prompt, n_gen, n_depth)),
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_depth=n_depth,
        n_sequences=whole(record.get("n_sequences")) or 1,
        avg_ts=number(record["avg_ts"]),
        stddev_ts=number(record["stddev_ts"]),
        avg_ns=whole(record.get("avg_ns")),
        stddev_ns=whole(record.get("stddev_ns")),
        samples_ns=tuple(round(float(value)) for value in record.get("samples_ns") or ()),
        samples_ts=tuple(float(value) for value in record.get("samples_ts") or ()),
        build_commit=build if ours or build is None else f"llama.cpp {build}",
        cpu_info=text_or_none(record.get("cpu_info")),
        gpu_info=text_or_none(record.get("gpu_info")),
        backends=text_or_none(record.get("backends")),
        model_filename=text_or_none(record.get("model_filename")),
        model_type=text_or_none(record.get("model_type")),
        model_size=whole(record.get("model_size")),
        model_n_params=whole(record.get("model_n_params")),
        n_threads=whole(record.get("n_threads")),
        context_length=whole(record.get("context_length")),
        test_time=text_or_none(record.get("test_time")),
        format=text_or_none(record.get("format")) if ours else "gguf",
        weights_id=text_or_none(record.get("weights_id")),
        note=str(record.get("note") or ""),
    )
