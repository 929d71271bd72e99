"""Make a draft sibling: cut the source hard, let it learn to say what the model says, and put it into the artifact.

The draft is exported like any model, verified, and not judged: on its own it is meant to be worse. What it is worth is its
acceptance rate, which is measured with the artifact it goes into (edgeport.export.evaluate.draft).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgeport.errors import UsageError
from edgeport.export.evaluate.draft import DraftTrial, attach_draft
from edgeport.export.gate.heldout import find_heldout
from edgeport.export.pipeline import run
from edgeport.export.preparation import RecoveryWish
from edgeport.export.request import ExportPlan, ExportRequest, GateWish, make_plan
from edgeport.export.source import SourceModel, open_source
from edgeport.manifest import DraftEntry, is_native, read_manifest
from edgeport.progress import Progress

DRAFT_RECIPE = "draft"


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """artifact: what gets the draft. source, device: None for those of the artifact. recipe: of the sibling, which should
    prune and recover. heldout: text for the acceptance rate, None for text/heldout.txt of the source."""

    artifact: Path
    source: str | None = None
    device: str | None = None
    recipe: str = DRAFT_RECIPE
    recovery: RecoveryWish = RecoveryWish()
    heldout: Path | None = None
    threads: int | None = None
    trial: DraftTrial = field(default_factory=DraftTrial)


def plan_draft(request: DraftRequest) -> ExportPlan:
    """The export of the sibling, beside the artifact and in its formats. Raises UsageError when the source is another one."""
    manifest = read_manifest(request.artifact)
    location = request.source or manifest.source.location
    formats = tuple(entry.format for entry in manifest.containers if not is_native(entry.format))
    if not formats:
        raise UsageError(
            f"{request.artifact} has no portable container, and a draft needs one in the same format",
            hint="export the model with gguf, onnx or openvino among its formats",
        )
    source = open_source(location)
    if source.fingerprint() != manifest.source.fingerprint:
        raise UsageError(
            f"{location} is not the model this artifact was exported from",
            hint="say where it is with --source",
        )
    _heldout(request, source)
    return make_plan(
        ExportRequest(
            model=location,
            device=request.device or manifest.device,
            out=_sibling(request.artifact),
            formats=formats,
            recipe=request.recipe,
            threads=request.threads,
            force=True,
            gate=GateWish(enabled=False, heldout=request.heldout),
            recovery=request.recovery,
        )
    )


def make_draft(
    request: DraftRequest, plan: ExportPlan, *, progress: Progress, tell: Callable[[str], None]
) -> DraftEntry:
    """Export the sibling and attach it; the entry of the manifest. A killed run goes on where it was."""
    run(plan, progress=progress, tell=tell)
    entry = attach_draft(
        request.artifact,
        plan.request.out,
        _heldout(request, plan.original),
        request.trial,
        threads=request.threads,
        progress=progress,
    )
    shutil.rmtree(plan.request.out)
    return entry


def adopt_draft(request: DraftRequest, small: Path, *, progress: Progress) -> DraftEntry:
    """Attach an artifact that is there already: a small model of the same family, say."""
    source = open_source(request.source or read_manifest(request.artifact).source.location)
    return attach_draft(
        request.artifact,
        small,
        _heldout(request, source),
        request.trial,
        threads=request.threads,
        progress=progress,
    )


def _sibling(artifact: Path) -> Path:
    return artifact.absolute().with_name(f"{artifact.absolute().name}-draft")


def _heldout(request: DraftRequest, source: SourceModel) -> Path:
    found = find_heldout(request.heldout, source)
    if found is None:
        raise UsageError(
            "the acceptance rate is measured on text, and there is none beside the model",
            hint="give a UTF-8 file of what the model will write with --heldout",
        )
    return found.path
