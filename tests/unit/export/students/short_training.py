"""A text that a few steps can learn, and runs that learn it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgeport.export.recover.corpus import TrainingText
from edgeport.export.recover.distill import DistillJob, DistillReport, distill
from edgeport.export.recover.settings import settings_from
from edgeport.export.recover.student import Student
from edgeport.export.source import SourceModel
from edgeport.progress import NO_PROGRESS

Moved = TypeVar("Moved", bound=Student)


def repetitive_text(source: SourceModel) -> TrainingText:
    """Windows that count upwards from anywhere: something a few steps can learn."""
    starts = np.arange(24)[:, None] * 7
    windows = (starts + np.arange(32)[None]) % source.spec.vocab_size
    return TrainingText(windows.astype(np.int64), np.array([5, 17]), ("counting",), 0, "counting 24x32")


def fine_tuned(
    source: SourceModel, folder: Path, *, kind: str, options: dict[str, Any] | None = None, **more: Any
) -> DistillReport:
    """A few steps on the text alone, without a teacher."""
    document = {"kind": kind, "options": options or {}, "alpha": 0.0, "steps": 12, "learning_rate": 5e-3}
    document |= {
        "batch_tokens": 256,
        "micro_tokens": 256,
        "n_ctx": 32,
        "precision": "f32",
        "measure_steps": 6,
    }
    job = DistillJob(None, source, repetitive_text(source), settings_from(document | more))
    return distill(job, folder / "out", work=folder / "work", threads=1, progress=NO_PROGRESS)


def moved(student: Moved, seed: int = 0) -> Moved:
    """With adapters that do something: B starts at zero."""
    generator = np.random.default_rng(seed)
    student.restore(
        {
            name: generator.normal(0, 0.05, values.shape).astype(np.float32)
            for name, values in student.arrays().items()
        }
    )
    return student
