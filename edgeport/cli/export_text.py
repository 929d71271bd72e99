"""What `edgeport export` shows: the plan before it runs, and the result, for people and as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeport.manifest import to_json
from edgeport.table import format_table
from edgeport.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from edgeport.export.pipeline import ExportResult
    from edgeport.export.request import ExportPlan
    from edgeport.manifest import Manifest


def plan_text(plan: ExportPlan) -> str:
    facts = plan.facts
    lines = [
        f"{plan.source.name}: {facts.family}, {format_count(facts.parameters)} parameters, {facts.layers} layers, "
        f"source {format_bytes(plan.original.facts().size_bytes)}",
        *(plan.preparation.lines() if plan.preparation is not None else ()),
        f"recipe {plan.recipe.name}: {facts.bits_per_weight:.2f} bits per weight; "
        f"device {plan.profile.name}, context {plan.context_length}",
        *_method_lines(plan),
        f"the export takes {format_bytes(plan.ram_bytes)} of memory and {format_bytes(plan.disk_bytes)} of disk",
    ]
    rows = [
        (
            fit.format,
            format_bytes(plan.sizes_bytes[fit.format]),
            format_bytes(fit.memory.required_bytes),
            f"{fit.speed.decode_low_tokens_per_s:.0f}-{fit.speed.decode_high_tokens_per_s:.0f}",
            "fits" if fit.fits else "does not fit: " + "; or ".join(fit.advice),
        )
        for fit in plan.fits
    ]
    if rows:
        headers = ("format", "weights", "memory to run", "tokens/s predicted", plan.profile.name)
        lines.append(format_table(headers, rows, right={1, 2, 3}))
    lines.extend(_native_lines(plan))
    lines.extend(f"{name} is left out: {', '.join(why)}" for name, why in plan.refused.items())
    lines.append(_gate_line(plan))
    lines.extend(plan.notes[:5])
    if len(plan.notes) > 5:
        lines.append(f"... and {len(plan.notes) - 5} more tensors")
    return "\n".join(lines)


def _method_lines(plan: ExportPlan) -> list[str]:
    """Solver, calibration and mix, each with its reason."""
    time = f", about {format_seconds(plan.solver.seconds)}" if plan.solver.seconds else ""
    lines = [f"solver {plan.solver.name}{time}: {plan.solver.reason}"]
    if plan.calibration is not None:
        wish = plan.calibration
        lines.append(
            f"calibration on {wish.tokens} tokens in windows of {wish.n_ctx} ({wish.wanted}), for {', '.join(wish.reasons)}"
        )
    if plan.mix is not None:
        wanted = plan.mix.target_bits
        told = (
            f"{wanted:g} bits per weight" if wanted is not None else format_bytes(plan.mix.target_bytes or 0)
        )
        lines.append(f"bits are spent where they help most, by measurement, within {told}")
    return lines


def _native_lines(plan: ExportPlan) -> list[str]:
    """Forecast of the formats with a scheme of their own, and where the engine falls back to other types."""
    if not plan.native:
        return []
    rows = [
        (item.name, format_bytes(item.size_bytes), f"{item.bits_per_weight:.2f}")
        for item in plan.native.values()
    ]
    lines = [format_table(("own scheme", "weights", "bits per weight"), rows, right={1, 2})]
    return lines + [f"{item.name}: {note}" for item in plan.native.values() for note in item.notes]


def _gate_line(plan: ExportPlan) -> str:
    if not plan.judged:
        return "gate: off, nothing is judged"
    limits = plan.request.gate.thresholds
    text = plan.heldout.origin if plan.heldout is not None else "text sampled from the model"
    ladder = " -> ".join(rung.name for rung in plan.ladder) or "none"
    checks = ", deployment checks" if plan.request.gate.deployment_checks else ""
    return (
        f"gate: perplexity at most {limits.perplexity_loss:.1%} worse on {text}, top-1 agreement at least "
        f"{limits.same_top1:.0%}, token accuracy at least {limits.accuracy_retention:.0%} of the source's, no new endless "
        f"loops{checks}; when it says no: {ladder}"
    )


def result_text(result: ExportResult) -> str:
    manifest = result.manifest
    source_bytes = manifest.source.size_bytes
    rows = [
        (
            entry.format,
            entry.entry_point,
            format_bytes(entry.size_bytes),
            f"{source_bytes / entry.size_bytes:.2f}x",
            "verified" if entry.verified else "NOT VERIFIED",
            entry.weights_id[:16],
        )
        for entry in manifest.containers
    ]
    parts = [format_table(("format", "file", "size", "ratio", "verdict", "weights_id"), rows, right={2, 3})]
    parts += _stage_parts(manifest)
    parts += _gate_parts(result)
    seconds = manifest.cost["seconds"]
    packing = sum(value for stage, value in seconds.items() if stage not in ("verify", "golden", "gate"))
    cost = f"{format_seconds(sum(seconds.values()))} ({format_seconds(packing)} to quantize and pack)"
    peak = format_bytes(manifest.cost["peak_ram_bytes"])
    return "\n".join([*parts, *_memory_parts(manifest), f"{result.directory}: {cost}, peak memory {peak}"])


def _memory_parts(manifest: Manifest) -> list[str]:
    """What was predicted of each stage's memory beside what it took; nothing for a manifest that does not tell."""
    rows = [
        (
            row["stage"],
            format_bytes(row["predicted_bytes"]),
            format_bytes(row["measured_bytes"]),
            f"{row['predicted_bytes'] / row['measured_bytes'] - 1:+.0%}",
        )
        for row in manifest.cost.get("stage_memory", ())
    ]
    if not rows:
        return []
    return [format_table(("memory to", "predicted", "measured", "off by"), rows, right={1, 2, 3})]


def _stage_parts(manifest: Manifest) -> list[str]:
    """What pruning and recovery did before quantization; nothing for an export without them."""
    from edgeport.runtimes.report.stages import STAGE_COLUMNS, stage_cells

    cells = stage_cells(manifest)
    return [format_table(STAGE_COLUMNS, cells, right=range(1, len(STAGE_COLUMNS)))] if cells else []


def _gate_parts(result: ExportResult) -> list[str]:
    """The gate's lines, and the path of the ladder where it was climbed."""
    from edgeport.export.gate.path import lines_text, path_text

    report = result.report
    if report is None:
        return ["gate: not asked, nothing was judged"]
    parts = [lines_text(report.lines)] if report.lines else []
    if len(result.path) > 1:
        parts.append(path_text(result.path))
    reason = f": {report.reason}" if report.reason else f" on {report.origin}"
    rung = f", with rung '{result.path[-1].rung}'" if len(result.path) > 1 else ""
    parts.append(f"gate: {report.verdict}{reason}{rung}")
    return parts + list(report.notes)


def plan_document(plan: ExportPlan) -> dict[str, Any]:
    return {
        "model": to_json(plan.facts),
        "source": to_json(plan.original.facts()),
        "recipe": plan.recipe.to_document(),
        "device": plan.profile.name,
        "context_length": plan.context_length,
        "formats": list(plan.formats),
        "refused": to_json(plan.refused),
        "sizes_bytes": dict(plan.sizes_bytes),
        "fits": to_json(plan.fits),
        "disk_bytes": plan.disk_bytes,
        "ram_bytes": plan.ram_bytes,
        "notes": list(plan.notes),
        "solver": to_json(plan.solver),
        "calibration": _calibration_document(plan),
        "mix": plan.mix.to_document() if plan.mix is not None else None,
        "own_schemes": to_json(plan.native),
        "gate": _gate_document(plan),
    }


def _calibration_document(plan: ExportPlan) -> dict[str, Any] | None:
    if plan.calibration is None:
        return None
    heldout = plan.calibration.heldout
    return {
        "wanted": plan.calibration.wanted,
        "tokens": plan.calibration.tokens,
        "n_ctx": plan.calibration.n_ctx,
        "heldout": str(heldout) if heldout is not None else None,
        "used_by": list(plan.calibration.reasons),
    }


def _gate_document(plan: ExportPlan) -> dict[str, Any]:
    wish = plan.request.gate
    return {
        "enabled": plan.judged,
        "thresholds": to_json(wish.thresholds),
        "deployment_checks": wish.deployment_checks,
        "text": plan.heldout.origin if plan.heldout is not None else "sampled from the model",
        "ladder": [
            {"rung": rung.name, "recipe": rung.recipe.name, "solver": rung.recipe.solver}
            for rung in plan.ladder
        ],
    }
