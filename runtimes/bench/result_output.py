"""Results as a table for people, Markdown, CSV or JSON lines; CSV and JSON lines under llama-bench's field names.

Fields that only edgeport has come after llama-bench's. CSV has no samples, as llama-bench's has none; JSON lines have all.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from edgeport.manifest import to_json
from edgeport.runtimes.bench.result_line import EDGEPORT, ResultLine, machines
from edgeport.table import format_table
from edgeport.units import format_bytes, format_count

OUTPUTS = ("table", "md", "csv", "jsonl")
ABSENT = "-"
CSV_FIELDS = (
    "build_commit", "cpu_info", "gpu_info", "backends", "model_filename", "model_type", "model_size", "model_n_params",
    "n_threads", "n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts",
    "test", "format", "n_sequences", "context_length", "weights_id", "source", "source_file", "note",
)  # fmt: skip
SAMPLE_FIELDS = ("samples_ns", "samples_ts")


def result_text(lines: Sequence[ResultLine], output: str) -> str:
    """`output` is one of OUTPUTS. Without a last line break."""
    if output == "jsonl":
        return "\n".join(json.dumps(_fields(line, (*CSV_FIELDS, *SAMPLE_FIELDS))) for line in lines)
    if output == "csv":
        return _csv(lines)
    headers, rows = _columns(lines)
    if output == "md":
        return _markdown(headers, rows)
    right = {index for index, header in enumerate(headers) if header in _NUMBERS}
    return "\n".join([format_table(headers, rows, right=right), *_warnings(lines)])


_NUMBERS = ("size", "params", "threads", "sequences", "context", "t/s")


def _fields(line: ResultLine, names: Sequence[str]) -> dict[str, object]:
    document = to_json(line)
    return {name: document[name] for name in names}


def _csv(lines: Sequence[ResultLine]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_fields(line, CSV_FIELDS) for line in lines)
    return out.getvalue().rstrip("\n")


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---:" if header in _NUMBERS else "---" for header in headers]
    shown = [headers, rule, *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in shown)


def _escaped(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|")


def _columns(lines: Sequence[ResultLine]) -> tuple[list[str], list[list[str]]]:
    """Columns of which no line has anything, or all have what is usual, are left out."""
    columns = {
        "model": [line.model_type or line.model_filename or ABSENT for line in lines],
        "size": [ABSENT if line.model_size is None else format_bytes(line.model_size) for line in lines],
        "params": [
            ABSENT if line.model_n_params is None else format_count(line.model_n_params) for line in lines
        ],
        "format": [line.format or ABSENT for line in lines],
        "engine": [line.build_commit or ABSENT for line in lines],
        "threads": [ABSENT if line.n_threads is None else str(line.n_threads) for line in lines],
        "context": [ABSENT if line.context_length is None else str(line.context_length) for line in lines],
        "sequences": [str(line.n_sequences) for line in lines],
        "test": [line.test for line in lines],
        "t/s": [_rate(line) for line in lines],
        "source": [_source(line) for line in lines],
        "note": [line.note for line in lines],
    }
    usual = {"sequences": {"1"}, "source": {EDGEPORT}, "note": {""}}
    kept = {
        title: cells for title, cells in columns.items() if not set(cells) <= usual.get(title, {ABSENT})
    } or {"test": columns["test"]}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def _rate(line: ResultLine) -> str:
    """As llama-bench prints it; without a deviation where the tool gives none."""
    if line.avg_ts is None:
        return ABSENT
    return f"{line.avg_ts:.2f}" + ("" if line.stddev_ts is None else f" ± {line.stddev_ts:.2f}")


def _source(line: ResultLine) -> str:
    return f"{line.source} ({line.source_file})" if line.source_file else line.source


def _warnings(lines: Sequence[ResultLine]) -> list[str]:
    found = machines(lines)
    unknown = any(not line.cpu_info for line in lines) and any(line.source_file for line in lines)
    if len(found) < 2 and not unknown:
        return []
    named = ", ".join((*found, *(["one that its file does not name"] if unknown else [])))
    return ["", f"measured on different machines, not to be compared: {named}"]
