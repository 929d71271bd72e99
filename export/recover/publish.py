"""From a request to a finished folder: check, tokenize, train in a hidden folder beside the output, rename."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.devices.probe import available_threads
from edgeport.errors import UsageError
from edgeport.export.gate.heldout import find_heldout
from edgeport.export.preflight import require_disk, require_free_output
from edgeport.export.provenance import PROVENANCE_NAME
from edgeport.export.recover.corpus import load_training
from edgeport.export.recover.distill import (
    DistillJob,
    DistillReport,
    check_models,
    distill,
    recorded_schedule,
)
from edgeport.export.recover.memory import TrainingMemory, require_training_memory
from edgeport.export.recover.precision import choose_precision
from edgeport.export.recover.settings import DistillSettings
from edgeport.export.source import SourceModel, open_source
from edgeport.export.staging import Staging
from edgeport.progress import Progress

NO_TEACHER = "none"


@dataclass(frozen=True, slots=True)
class DistillRequest:
    """teacher: a model, or `none`. heldout: text that is not trained on, None: the teacher's own where it has one. repeat: the
    provenance.json of an earlier run whose schedule is followed. threads None: those this process may use."""

    teacher: str
    student: str
    out: Path
    settings: DistillSettings
    heldout: Path | None = None
    repeat: Path | None = None
    threads: int | None = None
    force: bool = False
    resume: bool = True


@dataclass(frozen=True, slots=True)
class DistillPlan:
    """What is known before work starts. precision: f32 or bf16."""

    teacher: SourceModel | None
    student: SourceModel
    settings: DistillSettings
    heldout: Path | None
    memory: TrainingMemory
    precision: str
    threads: int
    schedule: tuple[tuple[int, float], ...] | None

    def to_document(self) -> dict[str, Any]:
        return {
            "teacher": None if self.teacher is None else self.teacher.name,
            "student": self.student.name,
            "settings": self.settings.to_document(),
            "heldout": None if self.heldout is None else str(self.heldout),
            "memory_bytes": self.memory.total_bytes,
            "precision": self.precision,
            "threads": self.threads,
        }


def make_distill_plan(request: DistillRequest) -> DistillPlan:
    """Decide and check. Raises UsageError, UnsupportedModel or DoesNotFit before anything is written."""
    require_free_output(request.out, force=request.force, mark=PROVENANCE_NAME)
    if request.threads is not None and request.threads < 1:
        raise UsageError(f"{request.threads} threads", hint="at least 1 is needed")
    settings = request.settings
    student = open_source(request.student)
    teacher = None if request.teacher == NO_TEACHER else open_source(request.teacher)
    check_models(teacher, student, settings)
    precision = choose_precision(settings.precision)
    memory = require_training_memory(teacher, student, settings, precision=precision)
    # The result, and in the hidden folder the masters, two moments and the best state, a moment long twice.
    require_disk(request.out, 4 * 6 * student.spec.parameters())
    found = find_heldout(request.heldout, teacher or student)
    return DistillPlan(
        teacher=teacher,
        student=student,
        settings=settings,
        heldout=found.path if found else None,
        memory=memory,
        precision=precision,
        threads=request.threads or available_threads(),
        schedule=None if request.repeat is None else recorded_schedule(request.repeat),
    )


def run_distill(request: DistillRequest, plan: DistillPlan, progress: Progress) -> DistillReport:
    """The folder appears by one rename; after a kill the same request goes on where it was."""
    with Staging(request.out, resume=request.resume) as staging:
        staging.keep_only(())
        work = staging.directory / "distill"
        # A pruned student has no text beside it any more; both have the same tokenizer.
        text = load_training(
            plan.teacher or plan.student,
            plan.settings,
            heldout=plan.heldout,
            work=work / "text",
            progress=progress,
        )
        job = DistillJob(plan.teacher, plan.student, text, plan.settings, plan.schedule)
        report = distill(job, staging.final, work=work, threads=plan.threads, progress=progress)
        staging.publish()
    return report
