"""Run the plan of an encoder: quantize, pack, prove, publish by one rename. The folder is laid out as a decoder's artifact."""

from __future__ import annotations

import datetime
import functools
import json
import resource
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeport.errors import GateFailure
from edgeport.export.build import tool_versions
from edgeport.export.checkpoint import StoredTensors, tensor_digest, weights_id
from edgeport.export.containers import container_entry
from edgeport.export.encoders.calibrate import input_ranges
from edgeport.export.encoders.golden import GOLDEN_FOLDER, tokenize, write_golden
from edgeport.export.encoders.onnx_linears import row_codes
from edgeport.export.encoders.packing import PackedEncoder, get_encoder_format
from edgeport.export.encoders.quantize import quantize_encoder
from edgeport.export.encoders.request import EncoderPlan
from edgeport.export.encoders.spec import POOLER
from edgeport.export.encoders.verify import verify_encoder
from edgeport.export.staging import Staging
from edgeport.export.timing import Clock
from edgeport.export.verify.artifact import WEIGHTS_NAME, Verification
from edgeport.manifest import Manifest, to_json, write_manifest
from edgeport.progress import Progress


@dataclass(frozen=True, slots=True)
class EncoderResult:
    """verification: empty when it was not asked for."""

    manifest: Manifest
    verification: Verification
    directory: Path


def run_encoder_plan(plan: EncoderPlan, *, progress: Progress) -> EncoderResult:
    """Build the artifact and rename it to `plan.request.out`.

    Raises GateFailure when a container is too far from the float model, damaged, or cuts text otherwise; the files are kept
    beside the output as `OUT.rejected`.
    """
    with Staging(plan.request.out, resume=plan.request.resume) as staging:
        clock = Clock()
        encoder, key = _packed(plan, staging, clock, progress)
        staging.keep_only((*plan.formats, GOLDEN_FOLDER))
        for name in plan.formats:
            with clock.timed(f"pack {name}"), progress.stage(f"pack {name}"):
                work = functools.partial(_write_container, name, encoder)
                staging.stage(staging.final / name, {**key, "format": name}, work)
        with clock.timed("golden"), progress.stage("float answers of transformers"):
            work = functools.partial(_write_golden, plan)
            staging.stage(staging.final / GOLDEN_FOLDER, {**key, "texts": list(plan.golden)}, work)
        manifest = _manifest(plan, encoder, staging.final, clock)
        write_manifest(manifest, staging.final)
        verification = Verification(())
        if plan.request.verify:
            with clock.timed("verify"):
                verification, agreements = verify_encoder(staging.final, progress=progress)
            manifest = _verified(manifest, verification, agreements, clock)
            write_manifest(manifest, staging.final)
            _require_verified(verification, staging)
        staging.publish()
    return EncoderResult(manifest, verification, plan.request.out)


def _packed(
    plan: EncoderPlan, staging: Staging, clock: Clock, progress: Progress
) -> tuple[PackedEncoder, dict[str, Any]]:
    """The quantized encoder, and what its containers depend on."""
    source, recipe = plan.source, plan.recipe
    key: dict[str, Any] = {
        "source": source.fingerprint(),
        "recipe": recipe.to_document(),
        "tools": tool_versions(),
    }
    directory = staging.directory / "checkpoint"

    def work(folder: Path) -> None:
        quantize_encoder(source, recipe.storage, folder, progress=progress)

    with clock.timed("quantize"):
        staging.stage(directory, key, work)
    checkpoint = StoredTensors(directory)
    ranges: dict[str, tuple[float, float]] = {}
    if plan.calibration:
        with clock.timed("calibrate"), progress.stage("calibrate"):
            ids = tokenize(source.directory, source.settings, plan.calibration)
            ranges = input_ranges(source.spec, checkpoint, ids)
    key |= {
        "name": source.name,
        "settings": to_json(source.settings),
        "int8": to_json(plan.int8),
        "calibration": list(plan.calibration),
    }
    encoder = PackedEncoder(source.name, source.spec, source.settings, checkpoint, recipe, plan.int8, ranges)
    return encoder, key


def _write_container(name: str, encoder: PackedEncoder, folder: Path) -> None:
    get_encoder_format(name).write(encoder, folder)


def _write_golden(plan: EncoderPlan, folder: Path) -> None:
    write_golden(plan.source.directory, plan.source.settings, plan.golden, folder)


def container_digests(encoder: PackedEncoder) -> dict[str, str]:
    """Digest of every weight that a container of this recipe holds, by name: linears that get codes per row are dequantized
    from these."""
    checkpoint = encoder.checkpoint
    digests = {record.name: record.digest for record in checkpoint.records}
    if encoder.recipe.activations != "float":
        for item in encoder.spec.tensors():
            is_float = not checkpoint.record(item.name).scheme.is_quantized
            if item.role == "linear" and is_float and not item.name.startswith(POOLER):
                codes, scales = row_codes(checkpoint.tensor(item.name).dequantize(), encoder.int8)
                digests[item.name] = tensor_digest(codes.astype("float32") * scales[:, None])
                checkpoint.release(item.name)
    return digests


def _manifest(plan: EncoderPlan, encoder: PackedEncoder, directory: Path, clock: Clock) -> Manifest:
    digests = container_digests(encoder)
    (directory / WEIGHTS_NAME).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    identity = weights_id(digests)
    recipe = plan.recipe.to_document()
    if plan.recipe.activations != "float":
        recipe |= {"weight_bits": plan.int8.bits, "weight_bits_reason": plan.int8.reason}
    return Manifest(
        name=plan.source.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        source=plan.source.facts(),
        recipe=recipe,
        device=plan.profile.name,
        model=plan.facts,
        weights_id=identity,
        containers=tuple(container_entry(name, name, directory, identity) for name in plan.formats),
        tool_versions=tool_versions(),
        cost={"seconds": dict(clock.seconds)},
        calibration={"texts": len(plan.calibration)} if plan.calibration else {},
        encoder={
            "settings": to_json(plan.source.settings),
            "threshold": plan.recipe.threshold,
            "agreement": {},
        },
    )


def _verified(
    manifest: Manifest, verification: Verification, agreements: Mapping[str, Any], clock: Clock
) -> Manifest:
    containers = tuple(
        replace(entry, verified=verification.container_passed(entry.format)) for entry in manifest.containers
    )
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    cost = {
        "seconds": dict(clock.seconds),
        "peak_ram_bytes": max(own, *clock.peak_bytes.values(), 0),
        "verify_peak_ram_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    }
    encoder = {**manifest.encoder, "agreement": dict(agreements)}
    return replace(manifest, containers=containers, cost=cost, encoder=encoder)


def _require_verified(verification: Verification, staging: Staging) -> None:
    if verification.passed:
        return
    failed = [check for check in verification.checks if not check.passed]
    told = "; ".join(f"{check.container} {check.name}: {check.detail}" for check in failed)
    aside = staging.reject()
    raise GateFailure(
        f"the export does not verify: {told}",
        hint=f"the files are kept in {aside} for a look; nothing was published. Another --recipe keeps more bits",
    )
