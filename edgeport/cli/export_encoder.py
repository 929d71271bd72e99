"""`edgeport export` of an encoder: show the plan, run it, show the result."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from edgeport.manifest import to_json
from edgeport.table import format_table
from edgeport.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from edgeport.export.encoders.artifact import EncoderResult
    from edgeport.export.encoders.request import EncoderPlan
    from edgeport.export.request import ExportRequest


def export_encoder(request: ExportRequest, arguments: argparse.Namespace) -> int:
    from edgeport.export.encoders.request import make_encoder_plan
    from edgeport.progress import Progress

    plan = make_encoder_plan(request)
    if arguments.dry_run:
        print(json.dumps(plan_document(plan), indent=2) if arguments.json else plan_text(plan))
        return 0
    if not arguments.quiet:
        print(plan_text(plan), file=sys.stderr)

    from edgeport.export.encoders.artifact import run_encoder_plan

    result = run_encoder_plan(plan, progress=Progress(quiet=arguments.quiet))
    print(json.dumps(to_json(result.manifest), indent=2) if arguments.json else result_text(result))
    return 0


def plan_text(plan: EncoderPlan) -> str:
    facts, settings = plan.facts, plan.source.settings
    use = f"{settings.pooling} pooling{', unit length' if settings.normalize else ''} ({settings.origin})"
    if settings.task != "features":
        use = f"{settings.task} into {len(settings.labels)} labels"
    lines = [
        f"{plan.source.name}: {facts.family} encoder, {format_count(facts.parameters)} parameters, {facts.layers} layers; "
        f"{use}, texts of up to {facts.context_length} tokens",
        f"recipe {plan.recipe.name}: {plan.recipe.description}; {facts.bits_per_weight:.2f} bits per weight, "
        f"{format_bytes(plan.weights_bytes)} in each of {', '.join(plan.formats)}; device {plan.profile.name}",
    ]
    if plan.recipe.activations != "float":
        lines.append(f"{plan.int8.reason}; one scale per output feature")
    if plan.calibration:
        lines.append(f"activation ranges from {len(plan.calibration)} texts")
    lines.extend(f"{name} is left out: {', '.join(why)}" for name, why in plan.refused.items())
    lines.append(
        f"gate: mean cosine with the float model at least {plan.recipe.threshold:g} on {len(plan.golden)} texts, of tokens and "
        "of pooled vectors"
    )
    return "\n".join([*lines, *plan.notes[:5]])


def plan_document(plan: EncoderPlan) -> dict[str, Any]:
    return {
        "model": to_json(plan.facts),
        "settings": to_json(plan.source.settings),
        "recipe": plan.recipe.to_document(),
        "device": plan.profile.name,
        "formats": list(plan.formats),
        "refused": to_json(plan.refused),
        "weights_bytes": plan.weights_bytes,
        "int8_weights": to_json(plan.int8),
        "notes": list(plan.notes),
    }


def result_text(result: EncoderResult) -> str:
    manifest = result.manifest
    rows = []
    for entry in manifest.containers:
        found = manifest.encoder["agreement"].get(entry.format)
        rows.append(
            (
                entry.format,
                entry.entry_point,
                format_bytes(entry.size_bytes),
                "verified" if entry.verified else "NOT VERIFIED",
                f"{found['mean_token_cosine']:.5f}" if found else "-",
                f"{found['mean_pooled_cosine']:.5f}" if found else "-",
                f"{found['same_label']:.0%}" if found and found["same_label"] is not None else "-",
            )
        )
    headers = ("format", "file", "size", "verdict", "cosine of tokens", "of texts", "same label")
    seconds = sum(manifest.cost["seconds"].values())
    return "\n".join(
        [format_table(headers, rows, right={2, 4, 5, 6}), f"{result.directory}: {format_seconds(seconds)}"]
    )
