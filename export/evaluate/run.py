"""Evaluate an artifact: the source once, then every container in its own runtime, on the same tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeport.devices.probe import available_threads
from edgeport.errors import UsageError
from edgeport.export.evaluate.child import write_text
from edgeport.export.evaluate.chunks import ChunkedText, chunk_text
from edgeport.export.evaluate.statistics import Quality
from edgeport.export.source import SourceModel, open_source
from edgeport.manifest import Manifest, from_json, read_manifest, to_json, write_manifest
from edgeport.progress import Progress
from edgeport.runtimes.isolation import run_isolated
from edgeport.units import format_bytes

DEFAULT_N_CTX = 512
LARGEST_BASE_BYTES = 2 << 30
"""Log probabilities of the source kept on disk while the containers are evaluated."""


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """source: model folder, None for where the manifest says it was. n_ctx: None for 512, or the model's
    context when that is shorter. most_chunks: 0 for the whole text."""

    artifact: Path
    text: Path
    source: str | None = None
    formats: tuple[str, ...] = ()
    n_ctx: int | None = None
    most_chunks: int = 40
    threads: int | None = None


def evaluate(request: EvalRequest, *, progress: Progress) -> dict[str, Quality]:
    """Quality by format, also stored in the manifest.

    Raises UsageError when the source is not the one that was exported, or the text does not fill two chunks.
    """
    manifest = read_manifest(request.artifact)
    source = _open_same_source(request, manifest)
    threads = request.threads or available_threads()
    text = _chunks(request, source)
    entries = [
        manifest.container(name) for name in request.formats or [item.format for item in manifest.containers]
    ]
    results: dict[str, Quality] = {}
    with (
        tempfile.TemporaryDirectory(prefix="edgeport-eval-") as folder,
        progress.stage("evaluate", total=len(entries) + 1) as stage,
    ):
        text_path, base_path = Path(folder) / "text.json", Path(folder) / "base.npy"
        write_text(text, text_path)
        arguments = {
            "model": str(source.directory),
            "text": str(text_path),
            "out": str(base_path),
            "threads": threads,
        }
        run_isolated("edgeport.export.evaluate.child:source_log_probs", arguments, timeout_s=None)
        stage.advance(1)
        for entry in entries:
            arguments = {
                "format_name": entry.format,
                "entry_point": str(request.artifact / entry.entry_point),
                "text": str(text_path),
                "base": str(base_path),
                "threads": threads,
            }
            document = run_isolated(
                "edgeport.export.evaluate.child:container_quality", arguments, timeout_s=None
            )
            results[entry.format] = from_json(Quality, document)
            stage.advance(1)
    # Read again: a bench may have written its speeds meanwhile.
    current = read_manifest(request.artifact)
    quality = {**current.quality, **{name: to_json(value) for name, value in results.items()}}
    write_manifest(replace(current, quality=quality), request.artifact)
    return results


def _open_same_source(request: EvalRequest, manifest: Manifest) -> SourceModel:
    location = request.source or manifest.source.location
    try:
        source = open_source(location)
    except UsageError as error:
        raise UsageError(
            f"the source model is needed to compare with: {error.message}",
            hint="say where it is with --source",
        ) from error
    if source.fingerprint() != manifest.source.fingerprint:
        raise UsageError(
            f"{location} is not the model this artifact was exported from: its fingerprint is {source.fingerprint()[:16]}, "
            f"the manifest says {manifest.source.fingerprint[:16]}",
            hint="give the right folder with --source, or export again",
        )
    return source


def _chunks(request: EvalRequest, source: SourceModel) -> ChunkedText:
    n_ctx = request.n_ctx or min(DEFAULT_N_CTX, source.spec.context_length)
    if not 8 <= n_ctx <= source.spec.context_length:
        raise UsageError(f"--n-ctx {n_ctx} is outside 8 .. {source.spec.context_length}, the model's context")
    chunk_bytes = (n_ctx - 1 - n_ctx // 2) * source.spec.vocab_size * 4
    affordable = max(LARGEST_BASE_BYTES // chunk_bytes, 1)
    if chunk_bytes > LARGEST_BASE_BYTES:
        raise UsageError(
            f"one chunk of {n_ctx} tokens needs {format_bytes(chunk_bytes)} of disk",
            hint="use a smaller --n-ctx",
        )
    most_chunks = min(request.most_chunks or affordable, affordable)
    return chunk_text(request.text, source.directory, n_ctx=n_ctx, most_chunks=most_chunks)


def result_rows(results: dict[str, Quality]) -> Sequence[tuple[str, ...]]:
    """Rows for a table: format, runtime, perplexity, ratio, KL divergence, same top token."""
    return [
        (
            name,
            item.runtime,
            f"{item.perplexity:.3f} ± {item.perplexity_error:.3f}",
            f"{item.perplexity_ratio:.4f} ± {item.perplexity_ratio_error:.4f}",
            f"{item.mean_kl_divergence:.5f} ± {item.kl_divergence_error:.5f}",
            f"{item.same_top1:.2%} ± {item.same_top1_error:.2%}",
        )
        for name, item in results.items()
    ]
