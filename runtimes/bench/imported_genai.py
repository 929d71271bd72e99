"""onnxruntime-genai's benchmark_e2e.py: one record holds a prompt's and a generation's mean rate, without repetitions.

Its CSV has the JSON's keys with dots (`metrics.token_generation_throughput_tps`); older versions wrote titles with units.
Rates are of all sequences of the batch, and the clock of decoding leaves sampling out, as ours does.
Source: microsoft/onnxruntime-genai, benchmark/python/benchmark_e2e.py and metrics.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgeport.runtimes.bench.imported_numbers import number, text_or_none, whole
from edgeport.runtimes.bench.result_line import ResultLine, label_of_test

GENAI = "onnxruntime-genai benchmark"
GENAI_KEYS = ("token_generation_throughput_tps", "prompt_processing_throughput_tps")
_TITLES = {
    "Batch Size": "config.batch_size",
    "Prompt Length": "config.prompt_length",
    "Tokens Generated": "config.tokens_generated",
    "Prompt Processing Throughput (tps)": "metrics.prompt_processing_throughput_tps",
    "Token Generation Throughput (tps)": "metrics.token_generation_throughput_tps",
}


def genai_lines(record: Mapping[str, Any], name: str) -> list[ResultLine]:
    """Prompt and generation of one record; none when it is not one of theirs."""
    flat = _flat(record)
    if not any(f"metrics.{key}" in flat for key in GENAI_KEYS):
        return []
    prompt = whole(flat.get("config.prompt_length")) or 0
    generated = whole(flat.get("config.tokens_generated")) or 0
    version = text_or_none(flat.get("metadata.package_version"))
    shared = ResultLine(
        source=GENAI,
        source_file=name,
        test="",
        n_prompt=0,
        n_gen=0,
        n_sequences=whole(flat.get("config.batch_size")) or 1,
        build_commit=f"{flat.get('metadata.package_name') or 'onnxruntime-genai'} {version or ''}".strip(),
        backends=text_or_none(flat.get("metadata.device")),
        model_type=_model(flat),
        test_time=text_or_none(flat.get("trigger_date")),
        format="onnx",
        note="mean of its repetitions, which it does not keep",
    )
    found = []
    prompt_rate = number(flat.get("metrics.prompt_processing_throughput_tps"))
    if prompt_rate is not None and prompt:
        found.append(replace(shared, test=label_of_test(prompt, 0), n_prompt=prompt, avg_ts=prompt_rate))
    rate = number(flat.get("metrics.token_generation_throughput_tps"))
    if rate is not None and generated:
        depth = label_of_test(0, generated, prompt)
        found.append(replace(shared, test=depth, n_gen=generated, n_depth=prompt, avg_ts=rate))
    return found


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """`{"config": {"batch_size": 1}}` as `{"config.batch_size": 1}`; titles of older files under today's keys."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{inner}": item for inner, item in _flat(value).items()})
        else:
            flat[_TITLES.get(key, key)] = value
    return flat


def _model(flat: Mapping[str, Any]) -> str | None:
    name = text_or_none(flat.get("config.model_info.full_name"))
    precision = text_or_none(flat.get("config.precision"))
    return " ".join(word for word in (name, precision) if word) or None
