"""What pruning and recovery did to the float model, on the gate's text: the rows between the source and the containers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgeport.export.evaluate.chunks import chunk_text
from edgeport.export.evaluate.models import compare_models
from edgeport.export.evaluate.statistics import Quality
from edgeport.export.gate.run import GateJob, count_tokens, plan_extent
from edgeport.manifest import StageFacts, read_manifest, write_manifest
from edgeport.progress import Progress


def measure_stages(job: GateJob, folders: Mapping[str, Path], progress: Progress) -> None:
    """Compare the model folders of the stages with the source and write the figures into the staged manifest.

    Raises RuntimeFailure for a folder that transformers cannot run, UsageError when the text is shorter than two chunks.
    """
    source = job.source
    extent = plan_extent(source, len(folders), job.threads, count_tokens(job.text.path, source))
    text = chunk_text(job.text.path, source.directory, n_ctx=extent.n_ctx, most_chunks=extent.chunks)
    found = compare_models(source, folders, text, threads=job.threads, progress=progress)
    manifest = read_manifest(job.directory)
    stages = tuple(_with_quality(stage, found) for stage in manifest.stages)
    write_manifest(replace(manifest, stages=stages), job.directory)


def _with_quality(stage: StageFacts, found: Mapping[str, Quality]) -> StageFacts:
    quality = found.get(stage.name)
    if quality is None:  # the source, which all others were compared with
        base = next(iter(found.values())).base_perplexity
        return replace(stage, perplexity=base, perplexity_ratio=1.0, mean_kl_divergence=0.0, same_top1=1.0)
    return replace(
        stage,
        perplexity=quality.perplexity,
        perplexity_ratio=quality.perplexity_ratio,
        mean_kl_divergence=quality.mean_kl_divergence,
        same_top1=quality.same_top1,
    )
