"""One attempt: calibrate, choose bits, quantize, pack, verify. The result is a staged artifact that nobody has judged yet."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeport import __version__
from edgeport.export.calibrate.run import STATISTICS_NAME, collect_statistics
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.calibration_stage import calibration_text, text_facts
from edgeport.export.checkpoint import Checkpoint
from edgeport.export.containers import container_entry, entry_point, pack, pack_native
from edgeport.export.preparation import PreparationWork, Prepared, prepare
from edgeport.export.quantize.run import Calibration, quantize
from edgeport.export.quantize.solvers import SOLVERS
from edgeport.export.recipe import Recipe, parse
from edgeport.export.request import ExportPlan, plan_with
from edgeport.export.staging import Staging
from edgeport.export.timing import Clock
from edgeport.export.verify.artifact import WEIGHTS_NAME, Verification, verify_artifact
from edgeport.export.verify.golden import compute_golden, write_golden
from edgeport.manifest import Manifest, StageFacts, to_json, write_manifest
from edgeport.progress import Progress

TOOLS = (
    "numpy", "ml_dtypes", "gguf", "onnx", "onnxruntime", "openvino", "openvino-tokenizers", "llama-cpp-python",
    "tokenizers", "safetensors", "compressed-tensors", "transformers", "torch", "bitsandbytes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where an export works; the same for every rung of the ladder."""

    staging: Staging
    progress: Progress
    clock: Clock = field(default_factory=Clock)


@dataclass(frozen=True, slots=True)
class Built:
    """A staged artifact. plan: with the recipe that was really used, which a mixed-precision search may have changed.

    stages: folders of the float models before quantization, by name."""

    plan: ExportPlan
    manifest: Manifest
    verification: Verification
    stages: Mapping[str, Path] = field(default_factory=dict)


def build(plan: ExportPlan, shop: Workshop) -> Built:
    """Make the artifact in `staging.final`, with its manifest; verification is empty when it was not asked for."""
    text = None
    if plan.calibration is not None:
        with shop.clock.timed("calibration text"):
            text = calibration_text(plan.calibration, plan.original, shop.staging, shop.progress)
    plan, prepared = _prepared(plan, text, shop)
    plan, mix = _mixed(plan, text, shop)
    key = checkpoint_key(plan, text)
    identities = _portable(plan, text, key, shop) if plan.portable else {}
    identities |= _native(plan, text, key, shop)
    final = shop.staging.final
    manifest = _manifest(plan, identities, final, shop.clock)
    recipe = {**manifest.recipe, "solver_reason": plan.solver.reason, **({"mix": mix} if mix else {})}
    stages = (_source_stage(plan), *prepared.facts()) if prepared is not None else ()
    manifest = replace(manifest, recipe=recipe, calibration=text_facts(text, plan.calibration), stages=stages)
    write_manifest(manifest, final)
    verification = Verification(())
    if plan.request.verify:
        with shop.clock.timed("verify"):
            verification = verify_artifact(final, progress=shop.progress)
    return Built(plan, manifest, verification, prepared.stages if prepared is not None else {})


def _prepared(
    plan: ExportPlan, text: CalibrationText | None, shop: Workshop
) -> tuple[ExportPlan, Prepared | None]:
    """The plan with the pruned and recovered model as what is quantized; unchanged where the recipe has no such stages."""
    if plan.preparation is None:
        return plan, None
    store = plan.request.recovery.store or shop.staging.directory / "prepared"
    store.mkdir(parents=True, exist_ok=True)
    heldout = plan.heldout.path if plan.heldout is not None else None
    work = PreparationWork(store, plan.threads, shop.progress)
    with shop.clock.timed("prune and recover"):
        prepared = prepare(plan.preparation, plan.original, text, heldout, work)
    return replace(plan, source=prepared.model), prepared


def _source_stage(plan: ExportPlan) -> StageFacts:
    return StageFacts("source", plan.original.spec.parameters(), plan.original.facts().size_bytes)


def _portable(
    plan: ExportPlan, text: CalibrationText | None, key: Mapping[str, Any], shop: Workshop
) -> dict[str, str]:
    """One set of codes in every portable container, with golden answers; the same weights_id for each."""
    checkpoint = _quantize(plan, text, key, shop)
    # Not before: until here a rung that cannot be built leaves the one before it whole.
    shop.staging.keep_only(plan.formats)
    packed = pack(plan, checkpoint, shop.staging, key, shop.clock, shop.progress)
    _write_index(checkpoint, shop.staging.final)
    with shop.clock.timed("golden"):
        write_golden(compute_golden(packed), shop.staging.final)
    return dict.fromkeys(plan.portable, checkpoint.weights_id)


def _native(
    plan: ExportPlan, text: CalibrationText | None, key: Mapping[str, Any], shop: Workshop
) -> dict[str, str]:
    """Containers with a scheme of their own, each with a weights_id of its own."""
    if not plan.native:
        return {}
    from edgeport.export.verify.native import native_identity

    statistics = _statistics(plan, text, key, shop)
    if not plan.portable:
        shop.staging.keep_only(plan.formats)
    own_key = {"source": key["source"], "tools": key["tools"], "text": text.sha256 if text else None}
    pack_native(plan, shop.staging, statistics, own_key, shop.clock, shop.progress)
    identities = {}
    for name, native in plan.native.items():
        entry = entry_point(name, native.base, shop.staging.final)
        with shop.clock.timed(f"golden {name}"):
            found = native_identity(name, entry, plan.source, shop.staging.final, shop.progress)
        identities[name] = found.weights_id
    return identities


def rung_key(plan: ExportPlan) -> dict[str, Any]:
    """What the outcome of a rung depends on, known before it runs."""
    return {
        **checkpoint_key(plan, None),
        "source": plan.original.fingerprint(),
        "mix": to_json(plan.mix),
        "calibration": repr(plan.calibration),
        "formats": list(plan.formats),
    }


def _mixed(
    plan: ExportPlan, text: CalibrationText | None, shop: Workshop
) -> tuple[ExportPlan, Mapping[str, Any]]:
    """The plan with the recipe of a mixed-precision search, and what the search reports; unchanged without a budget."""
    if plan.mix is None or text is None:
        return plan, {}
    wanted = plan.mix
    key = {**checkpoint_key(plan, text), "text": text.sha256, "mix": to_json(wanted)}
    folder = shop.staging.directory / "mix"

    def work(target: Path) -> None:
        from edgeport.export.mix.choose import choose_mix

        # The sensitivities in it serve every budget.
        scratch = shop.staging.scratch("mix-work", {**key, "mix": None})
        choice = choose_mix(
            plan.source, plan.recipe, text, wanted, work=scratch, threads=plan.threads, progress=shop.progress
        )
        found = {"recipe": choice.recipe.to_document(), "report": choice.report.to_document()}
        (target / "mix.json").write_text(json.dumps(found), encoding="utf-8")

    with shop.clock.timed("mix"):
        shop.staging.stage(folder, key, work)
    found = json.loads((folder / "mix.json").read_text(encoding="utf-8"))
    recipe: Recipe = parse(found["recipe"], default_name=plan.recipe.name)
    report: Mapping[str, Any] = found["report"]
    return plan_with(plan, recipe), report


def _quantize(
    plan: ExportPlan, text: CalibrationText | None, key: Mapping[str, Any], shop: Workshop
) -> Checkpoint:
    directory = shop.staging.directory / "checkpoint"

    def work(folder: Path) -> None:
        calibration = None
        if text is not None and SOLVERS[plan.recipe.solver].needs != "nothing":
            calibration = Calibration(text, shop.staging.scratch("solve", key))
        quantize(
            plan.source,
            plan.recipe,
            folder,
            calibration=calibration,
            threads=plan.threads,
            progress=shop.progress,
        )

    with shop.clock.timed("quantize"):
        shop.staging.stage(directory, key, work)
    return Checkpoint(directory, plan.source.spec)


def _statistics(
    plan: ExportPlan, text: CalibrationText | None, key: Mapping[str, Any], shop: Workshop
) -> Path | None:
    """Mean squares and magnitudes of each linear's input in the source model; None where no format wants them.

    A pass of its own over the float model, whatever the solver: one set of statistics for every recipe of the ladder.
    """
    if text is None or not any(native.needs_statistics for native in plan.native.values()):
        return None
    own = {"source": key["source"], "tools": key["tools"], "text": text.sha256, "threads": plan.threads}
    folder = shop.staging.directory / "statistics"

    def work(target: Path) -> None:
        scratch = shop.staging.scratch("statistics-work", own)
        path = collect_statistics(plan.source, text, scratch, threads=plan.threads, progress=shop.progress)
        path.rename(target / STATISTICS_NAME)

    with shop.clock.timed("statistics"):
        shop.staging.stage(folder, own, work)
    return folder / STATISTICS_NAME


def checkpoint_key(plan: ExportPlan, text: CalibrationText | None) -> dict[str, Any]:
    """What the bytes depend on: another tool version may round or lay out differently.

    Sums over tokens are split by thread, so the number of threads counts where there is calibration.
    """
    calibrated = SOLVERS[plan.recipe.solver].needs != "nothing"
    return {
        "source": plan.source.fingerprint(),
        "recipe": plan.recipe.to_document(),
        "tools": tool_versions(),
        "calibration": text.sha256 if text is not None and calibrated else None,
        "threads": plan.threads if calibrated else None,
    }


def _write_index(checkpoint: Checkpoint, directory: Path) -> None:
    digests = {record.name: record.digest for record in checkpoint.records}
    (directory / WEIGHTS_NAME).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


def _manifest(plan: ExportPlan, identities: Mapping[str, str], directory: Path, clock: Clock) -> Manifest:
    entries = (
        container_entry(
            name, plan.native[name].base if name in plan.native else name, directory, identities[name]
        )
        for name in plan.formats
    )
    return Manifest(
        name=plan.source.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        source=plan.original.facts(),
        recipe=plan.recipe.to_document(),
        device=plan.profile.name,
        model=plan.facts,
        weights_id=identities[plan.portable[0]] if plan.portable else "",
        containers=tuple(entries),
        tool_versions=tool_versions(),
        cost={"seconds": dict(clock.seconds)},
    )


def tool_versions() -> dict[str, str]:
    """Installed versions of the packages whose behaviour an artifact depends on."""
    versions = {"edgeport": __version__}
    for name in TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
