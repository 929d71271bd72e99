"""Results of other tools, read into the rows of ours: which tool wrote a file is told by its fields, never by its name.

llama-bench (`-o json`, `jsonl`, `csv`), onnxruntime-genai's benchmark_e2e.py (JSON, CSV), openvino.genai's llm_bench (`-rj`, `-r`)
and our own `bench --json` and `--output jsonl|csv`. A file that none of them wrote is refused with what was looked for.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError
from edgeport.runtimes.bench.imported_genai import GENAI_KEYS, genai_lines
from edgeport.runtimes.bench.imported_llama_bench import LLAMA_BENCH_KEYS, llama_bench_line
from edgeport.runtimes.bench.imported_llm_bench import LLM_BENCH_CSV_KEYS, llm_bench_csv, llm_bench_json
from edgeport.runtimes.bench.result_line import ResultLine

Record = Mapping[str, Any]
EXPECTED = (
    f"expected one of: llama-bench ({', '.join(LLAMA_BENCH_KEYS)}), onnxruntime-genai benchmark_e2e.py (config and metrics with "
    f"{GENAI_KEYS[0]}), openvino.genai llm_bench (metadata and perfdata, or {', '.join(LLM_BENCH_CSV_KEYS)}), "
    "edgeport bench --json"
)


def read_results(path: Path) -> tuple[ResultLine, ...]:
    """Every test in a file. Raises UsageError for a file that cannot be read or that none of the known tools wrote."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    try:
        lines = _from_json(text, path.name) if text.lstrip()[:1] in ("{", "[") else _from_csv(text, path.name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path} looks like a known result, but is damaged: {type(error).__name__}: {error}",
            hint=EXPECTED,
        ) from error
    if not lines:
        raise UsageError(f"{path} is of no tool known here, or holds no results", hint=EXPECTED)
    return tuple(lines)


def _from_json(text: str, name: str) -> list[ResultLine]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError:  # one document a line
        document = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(document, Mapping):
        if "perfdata" in document and "metadata" in document:
            return llm_bench_json(document, name)
        document = document.get("results", [document])
    if not isinstance(document, list):
        return []
    return _from_records([item for item in document if isinstance(item, Mapping)], name)


def _from_csv(text: str, name: str) -> list[ResultLine]:
    records = list(csv.DictReader(io.StringIO(text)))
    if records and set(LLM_BENCH_CSV_KEYS) <= set(records[0]):
        return llm_bench_csv(records, name)
    return _from_records(records, name)


def _from_records(records: Sequence[Record], name: str) -> list[ResultLine]:
    if not records:
        return []
    keys = set(records[0])
    if set(LLAMA_BENCH_KEYS) <= keys:
        return [llama_bench_line(record, name) for record in records]
    return [line for record in records for line in genai_lines(record, name)]
