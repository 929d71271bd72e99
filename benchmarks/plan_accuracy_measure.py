"""Twins, their containers, and what they really take and reach; made once and kept below the work folder."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plan_accuracy_rows import Case, Measured, keep, kept

from edgeport.manifest import Manifest, from_json, read_manifest, to_json
from edgeport.progress import Progress
from edgeport.runtimes.bench.child import SpeedSamples
from edgeport.runtimes.bench.environment import package_version
from edgeport.runtimes.bench.machine import DISTRIBUTIONS
from edgeport.runtimes.bench.measure import Workload
from edgeport.runtimes.bench.memory import MemoryUse
from edgeport.runtimes.bench.speed import rate
from edgeport.runtimes.engines import ENGINES
from edgeport.runtimes.isolation import run_isolated

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 4 * 3600.0
PROMPT_TOKENS = 512
GENERATED_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Setting:
    """work: where everything is kept. tiny: small shapes of the same structure, to try the benchmark itself."""

    work: Path
    threads: int
    repetitions: int
    tiny: bool


def twin_folder(name: str, setting: Setting) -> Path:
    """A random-weight model of the published shape."""
    folder = setting.work / "twins" / name
    if not (folder / "config.json").is_file():
        tiny = ["--tiny"] if setting.tiny else []
        command = [sys.executable, str(ROOT / "models" / "twins.py"), name, "-o", str(folder), *tiny]
        subprocess.run(command, cwd=ROOT, check=True)
    return folder


def artifact_folder(name: str, precision: str, formats: list[str], setting: Setting) -> Path:
    """The twin in all formats; one that lacks a format is exported again."""
    folder = setting.work / "artifacts" / f"{name}-{precision}"
    if (folder / "manifest.json").is_file():
        present = {entry.format for entry in read_manifest(folder).containers}
        if present >= set(formats):
            return folder
    twin = twin_folder(name, setting)
    command = [sys.executable, "-m", "edgeport", "export", str(twin), "--device", "host", "-o", str(folder)]
    for name_of_format in formats:
        command += ["--format", name_of_format]
    quick = ["--recipe", precision, "--solver", "rtn", "--no-gate", "--no-verify", "--force", "--quiet"]
    subprocess.run([*command, *quick], cwd=ROOT, check=True)
    return folder


def workload_for(context_length: int, repetitions: int) -> Workload:
    """A prompt and a text at the end of the context, with what fills the rest before them."""
    n_prompt = min(PROMPT_TOKENS, context_length // 2)
    n_gen = min(GENERATED_TOKENS, context_length // 4)
    return Workload(n_prompt, n_gen, context_length - n_prompt - n_gen, repetitions)


def measure(case: Case, artifact: Path, setting: Setting, progress: Progress) -> Measured:
    """From the work folder when these weights were measured with this version of the engine, else now."""
    manifest = read_manifest(artifact)
    entry = manifest.container(case.format)
    engine = _engine(case.format)
    depth = workload_for(case.context_length, setting.repetitions)
    place = f"{case.slug}-{setting.threads}-{depth.repetitions}.json"
    path = setting.work / "rows" / place
    found = kept(path, weights_id=entry.weights_id, engine=engine)
    if found is None:
        with progress.stage(case.slug):
            found = _measure(case, artifact, manifest, setting, engine)
        keep(found, path)
    return found


def _measure(case: Case, artifact: Path, manifest: Manifest, setting: Setting, engine: str) -> Measured:
    entry = manifest.container(case.format)
    workload = workload_for(case.context_length, setting.repetitions)
    shared: dict[str, Any] = {
        "format_name": case.format,
        "path": str(artifact / entry.entry_point),
        "threads": setting.threads,
        "context_length": case.context_length,
    }
    target = "edgeport.runtimes.bench.child:"
    weighed = run_isolated(
        f"{target}measure_memory", {**shared, "n_prompt": case.context_length}, timeout_s=TIMEOUT_S
    )
    peak = from_json(MemoryUse, weighed).after_prompt.peak_resident_bytes
    if peak is None:
        raise RuntimeError("this system does not tell the peak memory of a process")
    timed = run_isolated(
        f"{target}measure_speed", {**shared, "workload": to_json(workload)}, timeout_s=TIMEOUT_S
    )
    samples: SpeedSamples = from_json(SpeedSamples, timed)
    assert samples.prompt is not None and samples.generation is not None
    prefill, decode = rate(samples.prompt), rate(samples.generation)
    return Measured(
        peak_bytes=peak,
        decode_tokens_per_s=decode.tokens_per_s,
        prefill_tokens_per_s=prefill.tokens_per_s,
        variation=max(decode.variation, prefill.variation),
        file_bytes=entry.size_bytes,
        engine=engine,
        weights_id=entry.weights_id,
    )


def _engine(format_name: str) -> str:
    engine = ENGINES[format_name]
    package = engine.packages[-1]
    return f"{engine.name} {package_version(DISTRIBUTIONS.get(package, package)) or ''}".strip()
