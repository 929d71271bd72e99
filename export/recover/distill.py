"""Distillation: a student is trained to answer as its teacher does, and written as a stock Hugging Face folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError
from edgeport.export.provenance import PROVENANCE_NAME, earlier_provenance
from edgeport.export.recover.corpus import TrainingText
from edgeport.export.recover.memory import require_training_memory
from edgeport.export.recover.precision import choose_precision
from edgeport.export.recover.schedule import ClockPacer, Pacer, RecordedPacer, StepPacer
from edgeport.export.recover.settings import DistillSettings
from edgeport.export.recover.students import student_class
from edgeport.export.recover.teacher import LiveTeacher, Teacher
from edgeport.export.recover.teacher_cache import CachedTeacher
from edgeport.export.recover.trainer import Parts, Trainer
from edgeport.export.recover.training_state import TrainingState
from edgeport.export.recover.vocabulary import read_document, require_same_vocabulary
from edgeport.export.source import SourceModel
from edgeport.lazy import missing_extra
from edgeport.progress import Progress


@dataclass(frozen=True, slots=True)
class DistillJob:
    """teacher None: plain fine-tuning, which needs alpha 0. schedule: of an earlier run, to repeat it step by step; its
    steps and minutes are then those of the settings."""

    teacher: SourceModel | None
    student: SourceModel
    text: TrainingText
    settings: DistillSettings
    schedule: tuple[tuple[int, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class DistillReport:
    """Losses are on the held windows of the training text, in nats per token: `held_loss` is what is trained on (the mix of
    distribution and text), the cross entropies are of the text alone. The best state is the one with the lowest cross entropy, with
    alpha 1 the lowest loss. stopped_by: schedule or patience.

    schedule: [step, share of the run per step from there on]; curve: one entry per measurement, with step, tokens, seconds,
    held_loss, held_cross_entropy, learning_rate and, with a teacher, held_divergence.
    """

    held_loss_before: float
    held_loss_after: float
    held_cross_entropy_before: float
    held_cross_entropy_after: float
    steps: int
    best_step: int
    tokens: int
    seconds: float
    stopped_by: str
    precision: str
    schedule: tuple[tuple[int, float], ...]
    curve: tuple[dict[str, float], ...]


def distill(job: DistillJob, out: Path, *, work: Path, threads: int, progress: Progress) -> DistillReport:
    """Train and write `out`, which appears when it is whole. `work` survives a kill: the same call goes on from its last
    checkpoint, with the same bytes in the end where a number of steps, or a recorded schedule, says how long to train.

    Raises UsageError for settings that need what the models do not have, DoesNotFit, and UnsupportedModel when training
    diverges.
    """
    with missing_extra("eval", purpose="distillation"):
        import torch
    settings = job.settings
    vocab_size = check_models(job.teacher, job.student, settings)
    if job.text.windows.shape[1] != settings.n_ctx:
        raise UsageError(f"text in windows of {job.text.windows.shape[1]} tokens, n_ctx is {settings.n_ctx}")
    precision = choose_precision(settings.precision)
    require_training_memory(job.teacher, job.student, settings, precision=precision)
    torch.set_num_threads(threads)
    teacher = _teacher(job, work, vocab_size, precision)
    student = student_class(settings.kind)(job.student, settings.student())
    state = TrainingState(work / "run", _fingerprint(job, precision, threads))
    parts = Parts(student, teacher, job.text, state, _pacer(job))
    trainer = Trainer(parts, settings, precision=precision)
    stopped_by = trainer.run(progress)
    report = _report(trainer, stopped_by, precision)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    student.write(part)
    document = provenance(job, report)
    (part / PROVENANCE_NAME).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    part.rename(out)
    return report


def provenance(job: DistillJob, report: DistillReport) -> dict[str, Any]:
    """What was done to whom; where the student came from itself is kept under `source`."""
    teacher = job.teacher
    return {
        "stage": "distill",
        "settings": job.settings.to_document(),
        "student": {"name": job.student.name, "fingerprint": job.student.fingerprint()},
        "teacher": None if teacher is None else {"name": teacher.name, "fingerprint": teacher.fingerprint()},
        "text": job.text.facts(),
        "report": asdict(report),
        "source": earlier_provenance(job.student),
    }


def recorded_schedule(path: Path) -> tuple[tuple[int, float], ...]:
    """The schedule in a provenance.json that `distill` wrote. Raises UsageError for any other file."""
    document = read_document(path)
    try:
        rows: Sequence[Sequence[float]] = (document or {})["report"]["schedule"]
        found = tuple((int(step), float(pace)) for step, pace in rows)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} has no schedule of a distillation", hint="give the provenance.json of an earlier run"
        ) from error
    if not found or found[0][0] != 0:
        raise UsageError(f"the schedule in {path} does not begin at step 0")
    return found


def check_models(teacher: SourceModel | None, student: SourceModel, settings: DistillSettings) -> int:
    """The ids that both models have logits for. Raises UsageError for what the models cannot do together."""
    for model in (student, teacher):
        if model is not None and settings.n_ctx > model.spec.context_length:
            raise UsageError(
                f"windows of {settings.n_ctx} tokens, the context of {model.name} is {model.spec.context_length}",
                hint="take a smaller --n-ctx",
            )
    if teacher is None:
        if settings.loss().needs_teacher:
            raise UsageError(
                f"no teacher, but alpha {settings.alpha:g} and weights of {settings.logit_weight:g} and "
                f"{settings.hidden_weight:g} on its logits and hidden states",
                hint="give --teacher MODEL, or --alpha 0 to train on the text alone",
            )
        return student.spec.vocab_size
    vocab_size = require_same_vocabulary(teacher, student)
    if settings.cache_teacher >= vocab_size:
        raise UsageError(
            f"{settings.cache_teacher} of the teacher's tokens are to be kept for each position, the models have {vocab_size}",
            hint="--cache-teacher 32 keeps nearly all of the probability",
        )
    if settings.hidden_weight > 0:
        _check_hidden(teacher, student)
    return vocab_size


def _check_hidden(teacher: SourceModel, student: SourceModel) -> None:
    if teacher.spec.hidden_size != student.spec.hidden_size:
        raise UsageError(
            f"hidden states cannot be compared: {teacher.name} has a hidden size of {teacher.spec.hidden_size}, "
            f"{student.name} of {student.spec.hidden_size}",
            hint="leave --hidden-weight at 0",
        )
    if teacher.spec.layers < student.spec.layers:
        raise UsageError(
            f"hidden states cannot be compared: {teacher.name} has {teacher.spec.layers} layers, "
            f"{student.name} more, {student.spec.layers}",
            hint="leave --hidden-weight at 0",
        )


def _teacher(job: DistillJob, work: Path, vocab_size: int, precision: str) -> Teacher | None:
    settings = job.settings
    if job.teacher is None or not settings.loss().needs_teacher:
        return None
    live = LiveTeacher(job.teacher, settings.loss(), precision=precision, vocab_size=vocab_size)
    if not settings.cache_teacher:
        return live
    windows, n_ctx = job.text.windows.shape
    return CachedTeacher(
        live,
        work / "teacher",
        {
            "teacher": job.teacher.fingerprint(),
            "text": job.text.sha256,
            "precision": precision,
            "vocab_size": vocab_size,
        },
        shape=(windows, n_ctx),
        k=settings.cache_teacher,
        temperature=settings.temperature,
    )


def _pacer(job: DistillJob) -> Pacer:
    if job.schedule is not None:
        return RecordedPacer(job.schedule)
    if job.settings.steps is not None:
        return StepPacer(job.settings.steps)
    minutes = job.settings.minutes_wanted
    assert minutes is not None
    return ClockPacer(minutes)


def _fingerprint(job: DistillJob, precision: str, threads: int) -> dict[str, Any]:
    """Everything the result depends on. Sums over threads are in another order with another number of them."""
    import torch

    return {
        "settings": job.settings.to_document(),
        "schedule": job.schedule,
        "student": job.student.fingerprint(),
        "teacher": None if job.teacher is None else job.teacher.fingerprint(),
        "text": job.text.sha256,
        "held": job.text.held.tolist(),
        "precision": precision,
        "threads": threads,
        "torch": torch.__version__,
    }


def _report(trainer: Trainer, stopped_by: str, precision: str) -> DistillReport:
    run = trainer.run_state
    first = run.curve[0]
    best = next(entry for entry in run.curve if entry["step"] == run.best_step)
    return DistillReport(
        held_loss_before=first["held_loss"],
        held_loss_after=best["held_loss"],
        held_cross_entropy_before=first["held_cross_entropy"],
        held_cross_entropy_after=best["held_cross_entropy"],
        steps=run.step,
        best_step=run.best_step,
        tokens=run.tokens,
        seconds=round(run.seconds, 3),
        stopped_by=stopped_by,
        precision=precision,
        schedule=tuple((int(step), pace) for step, pace in run.schedule),
        curve=tuple(run.curve),
    )
