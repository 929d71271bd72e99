"""Run jobs one after the other; every finished row is kept, so that a second run goes on where the first one ended."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

from quality_jobs import Job
from quality_material import LONGEST_S, Bench, require
from quality_rows import OURS, Row, read_rows, write_rows

from edgeport.errors import EdgeportError
from edgeport.runtimes.isolation import run_isolated

_TOOLS = (
    "llama-cpp-python", "onnxruntime", "onnxruntime-genai", "openvino", "nncf", "optimum-intel", "bitsandbytes", "torch",
    "transformers",
)  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent


def run_jobs(jobs: Sequence[Job], bench: Bench) -> list[Row]:
    """All rows of all jobs, in their order. A failure becomes a row that says why, and is tried again by the next run."""
    rows: list[Row] = []
    for number, job in enumerate(jobs, start=1):
        started = time.monotonic()
        kept = bench.folder / "rows" / f"{_slug(job)}-{_key(job, bench)}.jsonl"
        found = read_rows(kept) if kept.is_file() else []
        if not found:
            found = list(_run(job, bench))
            if not any(row.failure for row in found):
                kept.parent.mkdir(exist_ok=True)
                write_rows(found, kept.with_suffix(".part"))
                kept.with_suffix(".part").replace(kept)
        for row in found:
            _tell(f"[{number}/{len(jobs)}] {_line(row)}, {time.monotonic() - started:.0f} s")
        rows += found
    return rows


def _run(job: Job, bench: Bench) -> Iterator[Row]:
    if importlib.util.find_spec(job.package) is None:
        yield from _failures(job, f"{job.package} is not installed (make peers)")
        return
    folder = bench.folder / "models" / _slug(job)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        for need in job.needs:
            require(need, bench.material)
        started = time.monotonic()
        made = run_isolated(job.target, {**job.arguments, "out": str(folder)}, timeout_s=LONGEST_S)
        seconds = time.monotonic() - started
    except EdgeportError as error:
        yield from _failures(job, error.message)
        return
    for engine in job.engines:
        path = Path(made) / engine if job.group == OURS else Path(made)
        yield _measured(job, engine, path, seconds, bench)


def _measured(job: Job, engine: str, path: Path, seconds: float, bench: Bench) -> Row:
    arguments = {
        "engine": engine,
        "path": str(path),
        "text": str(bench.text),
        "base": str(bench.base),
        "threads": bench.material.threads,
        "exact": job.exact,
    }
    try:
        quality = run_isolated("quality_measure:measure", arguments, timeout_s=LONGEST_S)
        weight = run_isolated("quality_sizes:sizes", {"engine": engine, "path": str(path)})
    except EdgeportError as error:
        return _failure(job, engine, error.message)
    return Row(
        name=job.name,
        group=job.group,
        engine=engine,
        float_weights=job.float_weights,
        four_bit=job.four_bit,
        file_bytes=weight["file_bytes"],
        weight_bytes=weight["weight_bytes"],
        parameters=bench.parameters,
        seconds=seconds,
        quality=quality,
    )


def _failures(job: Job, reason: str) -> Iterator[Row]:
    for engine in job.engines:
        yield _failure(job, engine, reason)


def _failure(job: Job, engine: str, reason: str) -> Row:
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    short = " ... ".join(dict.fromkeys((lines[0][:200], lines[-1][:200]))) if lines else "no reason given"
    return Row(job.name, job.group, engine, failure=short)


def _slug(job: Job) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{job.group} {job.name}".lower()).strip("-")


def _key(job: Job, bench: Bench) -> str:
    """Everything a row depends on besides the question: arguments, tools, the text's chunks, and for ours our own code."""
    facts = {
        "job": asdict(job),
        "tools": _tools(),
        "measure": _digest((ROOT / "benchmarks" / "quality_measure.py",)),
    }
    if job.group == OURS:
        facts["code"] = _our_code()
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]


@cache
def _tools() -> dict[str, str]:
    versions = {}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "-"
    return versions


@cache
def _our_code() -> str:
    folders = (
        ROOT / "export" / name for name in ("calibrate", "families", "formats", "mix", "quantize", "recipes")
    )
    return _digest(
        tuple(
            sorted(path for folder in folders for path in folder.iterdir() if path.suffix in (".py", ".toml"))
        )
    )


def _digest(paths: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        whole.update(path.read_bytes())
    return whole.hexdigest()[:16]


def _line(row: Row) -> str:
    head = f"{row.group} {row.name} ({row.engine})"
    if row.failure:
        return f"{head}: NOT MEASURED, {row.failure}"
    return (
        f"{head}: {row.weight_bytes:,} bytes, KL {row.kl:.5f}, perplexity {100 * row.perplexity_loss:+.2f} %"
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
