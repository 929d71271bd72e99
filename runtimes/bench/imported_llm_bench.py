"""openvino.genai's llm_bench: a record per iteration, the first of which (0) is its warm-up and is left out here as there.

It gives the time to the first token (tokenizing is timed apart, choosing the token is in it) and the mean time of each token after
it, in milliseconds. A prompt's rate is its tokens over the former; decoding's is the sequences over the latter.
Source: openvinotoolkit/openvino.genai, tools/llm_bench/llm_bench_utils/output_json.py and output_csv.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeport.runtimes.bench.imported_numbers import number, required, text_or_none, whole
from edgeport.runtimes.bench.result_line import ResultLine, label_of_test
from edgeport.runtimes.bench.statistics import summarize

LLM_BENCH = "openvino.genai llm_bench"
LLM_BENCH_CSV_KEYS = ("iteration", "input_size", "1st_latency(ms)", "2nd_avg_latency(ms)")
PROMPT_NOTE = "from its time to the first token, which it chooses within it"


@dataclass(frozen=True, slots=True)
class _Iteration:
    """One repetition of one prompt. start: when it began."""

    prompt_index: int
    input_tokens: int
    output_tokens: int
    first_ms: float | None
    next_ms: float | None
    start: str | None


def llm_bench_json(document: Mapping[str, Any], name: str) -> list[ResultLine]:
    iterations = [
        _Iteration(
            whole(item.get("prompt_idx")) or 0,
            round(required(item["input_size"], "input_size")),
            whole(item.get("output_size")) or whole(item.get("infer_count")) or 0,
            number(item.get("first_latency")),
            number(item.get("second_avg_latency")),
            text_or_none(item.get("start")),
        )
        for item in document["perfdata"]["results"]
        if required(item["iteration"], "iteration") > 0
    ]
    return _lines(iterations, document["metadata"], name)


def llm_bench_csv(records: Sequence[Mapping[str, Any]], name: str) -> list[ResultLine]:
    """Rows of averages and the explanations at the end of the file have no number as their iteration."""
    iterations = [
        _Iteration(
            whole(row.get("prompt_idx")) or 0,
            round(required(row["input_size"], "input_size")),
            whole(row.get("output_size")) or whole(row.get("infer_count")) or 0,
            number(row["1st_latency(ms)"]),
            number(row["2nd_avg_latency(ms)"]),
            text_or_none(row.get("start")),
        )
        for row in records
        if str(row["iteration"]).isdecimal() and int(row["iteration"]) > 0
    ]
    return _lines(iterations, records[0], name)


def _lines(iterations: Sequence[_Iteration], metadata: Mapping[str, Any], name: str) -> list[ResultLine]:
    """A prompt's and a generation's line for each prompt of the file."""
    batch = whole(metadata.get("batch_size")) or 1
    found = []
    for index in dict.fromkeys(item.prompt_index for item in iterations):
        group = [item for item in iterations if item.prompt_index == index]
        tokens, written = group[0].input_tokens, group[0].output_tokens
        prompts = [item.first_ms for item in group if item.first_ms]
        if prompts and tokens:
            line = _line(prompts, batch * tokens, name, metadata)
            found.append(_named(line, (tokens, 0, 0), batch, group[0].start, PROMPT_NOTE))
        steps = [item.next_ms for item in group if item.next_ms]
        if steps and written > 1:
            # the first token is the prompt's
            line = _line([(written - 1) * step for step in steps], batch * (written - 1), name, metadata)
            found.append(_named(line, (0, written - 1, tokens), batch, group[0].start, ""))
    return found


def _line(milliseconds: Sequence[float], tokens: int, name: str, metadata: Mapping[str, Any]) -> ResultLine:
    """All but what test it is."""
    rates = summarize([1000 * tokens / value for value in milliseconds])
    times = summarize([1e6 * value for value in milliseconds])
    words = (text_or_none(metadata.get("model")), text_or_none(metadata.get("precision")))
    several = len(milliseconds) > 1
    return ResultLine(
        source=LLM_BENCH,
        test="",
        n_prompt=0,
        n_gen=0,
        source_file=name,
        avg_ts=rates.mean,
        stddev_ts=rates.standard_deviation if several else None,
        avg_ns=round(times.mean),
        stddev_ns=round(times.standard_deviation) if several else None,
        samples_ns=tuple(round(1e6 * value) for value in milliseconds),
        samples_ts=tuple(1000 * tokens / value for value in milliseconds),
        build_commit=text_or_none(metadata.get("framework")),
        backends=text_or_none(metadata.get("device")),
        model_type=" ".join(word for word in words if word) or None,
        format="openvino",
    )


def _named(
    line: ResultLine, tokens: tuple[int, int, int], batch: int, start: str | None, note: str
) -> ResultLine:
    """tokens: of the prompt, generated, in the cache before."""
    return replace(
        line,
        test=label_of_test(*tokens),
        n_prompt=tokens[0],
        n_gen=tokens[1],
        n_depth=tokens[2],
        n_sequences=batch,
        test_time=start,
        note=note,
    )
