"""What all jobs share, made once and kept in the work folder: the source's answers, the calibration windows, float models."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from quality_jobs import Material

from edgeport.export.calibrate.sources import load_calibration
from edgeport.export.evaluate.child import write_text
from edgeport.export.evaluate.chunks import chunk_text
from edgeport.export.source import open_source
from edgeport.progress import Progress
from edgeport.runtimes.isolation import run_isolated

LONGEST_S = 4 * 3600.0
"""For one child: distillation on two busy cores is slow."""


@dataclass(frozen=True, slots=True)
class Question:
    """chunks: 0 for the whole held-out text. Chunks and calibration windows have n_ctx tokens."""

    model: Path
    heldout: Path
    calibration: Path
    chunks: int = 0
    n_ctx: int = 512
    calibration_tokens: int = 65536
    threads: int = 2


@dataclass(frozen=True, slots=True)
class Bench:
    """folder: everything below it belongs to this question. text, base: for quality_measure. parameters: of the model."""

    folder: Path
    text: Path
    base: Path
    parameters: int
    material: Material


def prepare(question: Question, work: Path, progress: Progress) -> Bench:
    """Cut the text, run the source model over it, cut the calibration windows; what is there already stays."""
    source = open_source(str(question.model))
    chunked = chunk_text(
        question.heldout, question.model, n_ctx=question.n_ctx, most_chunks=question.chunks or 1_000_000
    )
    facts = {
        "source": source.fingerprint(),
        "text": chunked.text_sha256,
        "chunks": len(chunked.chunks),
        "n_ctx": question.n_ctx,
        "calibration": hashlib.sha256(question.calibration.read_bytes()).hexdigest(),
        "calibration_tokens": question.calibration_tokens,
    }
    folder = work / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    text, base, windows = folder / "text.json", folder / "base.npy", folder / "windows.npy"
    write_text(chunked, text)
    arguments = {"model": str(question.model), "text": str(text), "threads": question.threads}
    with progress.stage("source model"):
        _once(base, "edgeport.export.evaluate.child:source_log_probs", arguments)
    if not windows.is_file():
        found = load_calibration(
            str(question.calibration),
            source,
            tokens=question.calibration_tokens,
            n_ctx=question.n_ctx,
            heldout=question.heldout,
            progress=progress,
        )
        np.save(folder / "part.npy", found.windows)
        (folder / "part.npy").replace(windows)
    material = Material(
        model=question.model,
        windows=windows,
        calibration=question.calibration,
        calibration_tokens=question.calibration_tokens,
        heldout=question.heldout,
        imatrix=folder / "imatrix.npz",
        float_gguf=folder / "float" / "model-bf16.gguf",
        float_graph=folder / "float" / "graph" / "openvino_model.xml",
        threads=question.threads,
    )
    return Bench(folder, text, base, source.spec.parameters(), material)


def require(need: str, material: Material) -> None:
    """Make the file of this field of Material unless it is there. Raises EdgeportError with the reason when it cannot be."""
    makers: dict[str, Callable[[Material], None]] = {
        "imatrix": _imatrix,
        "float_gguf": _float_gguf,
        "float_graph": _float_graph,
    }
    makers[need](material)


def _imatrix(material: Material) -> None:
    arguments = {
        "model": str(material.model),
        "windows": str(material.windows),
        "threads": material.threads,
    }
    _once(material.imatrix, "quality_llama:collect_imatrix", arguments)


def _float_gguf(material: Material) -> None:
    if material.float_gguf.is_file():
        return
    folder = material.float_gguf.parent / "export"
    shutil.rmtree(folder, ignore_errors=True)
    options = {"recipe": "bf16", "format": "gguf", "threads": str(material.threads)}
    arguments = {"model": str(material.model), "options": options, "out": str(folder)}
    made = Path(run_isolated("quality_ours:export", arguments, timeout_s=LONGEST_S))
    next(made.glob("gguf/*.gguf")).replace(material.float_gguf)


def _float_graph(material: Material) -> None:
    target = material.float_graph.parent
    if material.float_graph.is_file():
        return
    part = target.with_name("graph.part")
    shutil.rmtree(part, ignore_errors=True)
    arguments = {"model": str(material.model), "out": str(part)}
    run_isolated("quality_nncf:export_float", arguments, timeout_s=LONGEST_S)
    part.replace(target)


def _once(path: Path, target: str, arguments: dict[str, object]) -> None:
    """Call `target` with `out`, a name beside `path`, and rename what it wrote, unless `path` is there already."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{path.name}")
    run_isolated(target, {**arguments, "out": str(part)}, timeout_s=LONGEST_S)
    part.replace(path)
