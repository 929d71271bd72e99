"""Source, pruned, recovered and quantized side by side: what each stage of an export cost and what it lost."""

from __future__ import annotations

from edgeport.manifest import Manifest
from edgeport.runtimes.report.rows import container_rows, shown, size
from edgeport.units import format_count, format_seconds

STAGE_COLUMNS = ("stage", "parameters", "size", "perplexity", "to source", "KL", "top-1", "took")


def stage_cells(manifest: Manifest) -> list[tuple[str, ...]]:
    """One row of STAGE_COLUMNS for each float stage, then one for each container; empty where nothing was pruned."""
    if not manifest.stages:
        return []
    rows: list[tuple[str, ...]] = [
        (
            stage.name,
            format_count(stage.parameters),
            size(stage.size_bytes),
            shown(stage.perplexity, "{:.3f}"),
            shown(stage.perplexity_ratio, "{:.4f}"),
            shown(stage.mean_kl_divergence, "{:.4f}"),
            shown(stage.same_top1, "{:.1%}"),
            format_seconds(stage.seconds) if stage.seconds is not None else "",
        )
        for stage in manifest.stages
    ]
    for row in container_rows(manifest):
        ratio = 1 + row.perplexity_change if row.perplexity_change is not None else None
        rows.append(
            (
                f"{row.format}, {manifest.recipe.get('name', 'quantized')}",
                format_count(manifest.model.parameters),
                size(row.size_bytes),
                shown(row.perplexity, "{:.3f}"),
                shown(ratio, "{:.4f}"),
                shown(row.mean_kl_divergence, "{:.4f}"),
                shown(row.same_top1, "{:.1%}"),
                "",
            )
        )
    return rows
