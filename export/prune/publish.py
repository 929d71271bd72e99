"""From a request to a finished folder: check, calibrate, prune in a hidden folder beside the output, rename."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeport.devices.conversion import CalibrationLoad, conversion_memory
from edgeport.devices.probe import available_threads, read_host
from edgeport.errors import DoesNotFit, UsageError
from edgeport.export.calibration_stage import calibration_text
from edgeport.export.gate.heldout import find_heldout
from edgeport.export.methods import CalibrationWish, plan_calibration
from edgeport.export.preflight import require_disk, require_free_output
from edgeport.export.provenance import PROVENANCE_NAME
from edgeport.export.prune.plan import PrunePlan, plan_prune
from edgeport.export.prune.report import PruneReport
from edgeport.export.prune.run import prune
from edgeport.export.prune.settings import PruneSettings
from edgeport.export.recipe import load_recipe
from edgeport.export.sizes import model_facts
from edgeport.export.source import open_source
from edgeport.export.staging import Staging
from edgeport.progress import Progress
from edgeport.units import format_bytes


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """formats: what the result will be exported to, for its widths. heldout: text that calibration must not overlap, None: the
    source's own. threads None: those this process may use."""

    model: str
    out: Path
    settings: PruneSettings
    formats: tuple[str, ...] = ()
    calibration: CalibrationWish = CalibrationWish()
    heldout: Path | None = None
    threads: int | None = None
    force: bool = False
    resume: bool = True


def make_prune_plan(request: PruneRequest) -> PrunePlan:
    """Decide and check. Raises UsageError, UnsupportedModel or DoesNotFit before anything is written."""
    require_free_output(request.out, force=request.force, mark=PROVENANCE_NAME)
    wish = request.calibration
    if (request.threads or 1) < 1 or wish.tokens < 1 or (wish.n_ctx or 2) < 2:
        raise UsageError(
            f"threads {request.threads}, calibration of {wish.tokens} tokens in windows of {wish.n_ctx}",
            hint="threads and tokens must be at least 1, windows at least 2",
        )
    plan = plan_prune(open_source(request.model), request.settings, request.formats)
    _require_memory(plan)
    # The result, and the trunk where layers or hidden channels go.
    require_disk(request.out, 2 * plan.source.facts().size_bytes)
    return plan


def run_prune(request: PruneRequest, plan: PrunePlan, progress: Progress) -> PruneReport:
    """The folder appears by one rename; after a kill the same request goes on where it was."""
    heldout = find_heldout(request.heldout, plan.source)
    wish = plan_calibration(
        plan.source.spec, request.calibration, heldout.path if heldout else None, ("pruning",)
    )
    with Staging(request.out, resume=request.resume) as staging:
        staging.keep_only(())
        text = calibration_text(wish, plan.source, staging, progress)
        report = prune(
            plan,
            text,
            staging.final,
            work=staging.directory / "prune",
            threads=request.threads or available_threads(),
            progress=progress,
        )
        staging.publish()
    return report


def _require_memory(plan: PrunePlan) -> None:
    settings = plan.settings
    if settings.importance != "activation" and not settings.reconstruct:
        return
    estimate = conversion_memory(
        model_facts(plan.source.spec, load_recipe("bf16")),
        largest_bits_per_weight=16,
        threads=1,
        calibration=CalibrationLoad(hessian=settings.reconstruct),
    )
    worst = max(estimate.stages, key=lambda stage: stage.bytes)
    available_bytes = read_host().available_bytes
    if worst.bytes > available_bytes:
        raise DoesNotFit(
            f"pruning needs {format_bytes(worst.bytes)} of memory ({worst.basis}), {format_bytes(available_bytes)} are available",
            hint="close other programs" + (", or use --no-reconstruct" if settings.reconstruct else ""),
        )
