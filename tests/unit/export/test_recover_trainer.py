"""The training loop on a tiny damaged model: it learns, counts right, keeps the best, and knows when to stop."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeport.errors import UnsupportedModel
from edgeport.export.recover.corpus import TrainingText, load_training
from edgeport.export.recover.distill import DistillJob, DistillReport, distill, recorded_schedule
from edgeport.export.recover.full import FullStudent
from edgeport.export.recover.schedule import StepPacer
from edgeport.export.recover.settings import settings_from
from edgeport.export.recover.trainer import Parts, Trainer
from edgeport.export.recover.training_state import TrainingState
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import NO_PROGRESS

BASE = {
    "precision": "f32",
    "text": "embedded",
    "text_tokens": 8192,
    "n_ctx": 64,
    "micro_tokens": 256,
    "batch_tokens": 512,
    "held_tokens": 512,
    "measure_steps": 5,
    "learning_rate": 2e-3,
    "alpha": 1.0,
}


@pytest.fixture(scope="module")
def teacher(tiny_llama_dir: Path) -> SourceModel:
    return open_source(str(tiny_llama_dir))


@pytest.fixture(scope="module")
def student(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    """The teacher with noise on its weights."""
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("students") / "damaged"
    shutil.copytree(tiny_llama_dir, folder)
    generator = torch.Generator().manual_seed(5)
    state = load_file(folder / "model.safetensors")
    damaged = {
        name: (values.float() + 0.05 * torch.randn(values.shape, generator=generator)).to(values.dtype)
        for name, values in state.items()
    }
    save_file(damaged, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "provenance.json").write_text(json.dumps({"stage": "damage"}))
    return open_source(str(folder))


@pytest.fixture(scope="module")
def text(teacher: SourceModel, tmp_path_factory: pytest.TempPathFactory) -> TrainingText:
    work = tmp_path_factory.mktemp("text")
    return load_training(teacher, settings_from(BASE), heldout=None, work=work, progress=NO_PROGRESS)


@pytest.fixture
def run(
    teacher: SourceModel, student: SourceModel, text: TrainingText, tmp_path: Path
) -> Callable[..., DistillReport]:
    def distilled(name: str, **changes: Any) -> DistillReport:
        schedule = changes.pop("schedule", None)
        settings = settings_from(BASE | changes)
        job = DistillJob(
            teacher if settings.loss().needs_teacher else None, student, text, settings, schedule
        )
        return distill(job, tmp_path / name, work=tmp_path / f"{name}-work", threads=1, progress=NO_PROGRESS)

    return distilled


def divergence(teacher: Path, student: Path, windows: Any) -> float:
    """Of the written folders, with transformers alone."""
    from transformers import AutoModelForCausalLM

    tokens = torch.from_numpy(np.array(windows, dtype=np.int64))
    with torch.no_grad():
        p, q = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(tokens).logits[:, :-1]
            for folder in (teacher, student)
        )
    p, q = p.log_softmax(dim=-1), q.log_softmax(dim=-1)
    return float((p.exp() * (p - q)).sum(dim=-1).mean())


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_damaged_student_comes_back_to_its_teacher(
    run: Callable[..., DistillReport],
    teacher: SourceModel,
    student: SourceModel,
    text: TrainingText,
    tmp_path: Path,
) -> None:
    report = run("out", steps=60)
    held = text.windows[text.held]
    before = divergence(teacher.directory, student.directory, held)
    after = divergence(teacher.directory, tmp_path / "out", held)
    assert report.held_loss_before == pytest.approx(before, rel=1e-4)
    assert report.held_loss_after == pytest.approx(after, rel=0.02)  # the folder is rounded to bf16
    assert after < before / 2
    assert (report.steps, report.tokens, report.stopped_by) == (60, 60 * 512, "schedule")
    document = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert document["source"] == {"stage": "damage"}
    assert document["teacher"]["fingerprint"] == teacher.fingerprint()
    assert [entry["step"] for entry in document["report"]["curve"]] == list(range(0, 61, 5))
    assert open_source(str(tmp_path / "out")).spec == student.spec
    assert recorded_schedule(tmp_path / "out" / "provenance.json") == report.schedule


def test_text_alone_is_learned_too_but_does_not_lead_to_the_teacher(
    run: Callable[..., DistillReport], teacher: SourceModel, text: TrainingText, tmp_path: Path
) -> None:
    plain = run("plain", steps=20, alpha=0.0)
    assert plain.held_cross_entropy_after < plain.held_cross_entropy_before
    assert "held_divergence" not in plain.curve[0]
    run("taught", steps=20)
    held = text.windows[text.held]
    taught, untaught = (divergence(teacher.directory, tmp_path / name, held) for name in ("taught", "plain"))
    assert taught < untaught


def test_a_remembered_teacher_gives_the_same_course(run: Callable[..., DistillReport]) -> None:
    live, cached = run("live", steps=10), run("cached", steps=10, cache_teacher=500)
    for mine, theirs in zip(live.curve, cached.curve, strict=True):
        assert mine["held_divergence"] == pytest.approx(theirs["held_divergence"], rel=0.01)


def test_a_clock_run_is_repeated_from_its_record(run: Callable[..., DistillReport], tmp_path: Path) -> None:
    first = run("clock", minutes=0.08)
    assert len(first.schedule) > 2
    again = run("again", minutes=0.08, schedule=first.schedule)
    assert weights(tmp_path / "clock") == weights(tmp_path / "again")
    assert again.steps == first.steps
    run("other", steps=first.steps)
    assert weights(tmp_path / "clock") != weights(tmp_path / "other")


def test_a_rate_that_ruins_the_model_keeps_the_start(
    run: Callable[..., DistillReport], student: SourceModel, tmp_path: Path
) -> None:
    report = run("ruined", steps=100, learning_rate=0.5, warmup_share=0.0, patience=3)
    assert (report.stopped_by, report.best_step) == ("patience", 0)
    assert report.steps == 15
    assert report.held_loss_after == report.held_loss_before
    left = open_source(str(tmp_path / "ruined"))
    for item in student.spec.tensors():
        assert left.tensor(item.name).tobytes() == student.tensor(item.name).tobytes()


def test_the_best_state_is_written_not_the_last(
    run: Callable[..., DistillReport], teacher: SourceModel, text: TrainingText, tmp_path: Path
) -> None:
    """Eight windows learned by heart: the held loss falls, then rises again."""
    few = dataclasses.replace(text, windows=text.windows[: len(text.held) + 8])
    few = dataclasses.replace(few, held=np.arange(8, len(few.windows)))
    settings = settings_from(BASE | {"steps": 150, "alpha": 0.0, "learning_rate": 4e-3, "patience": 4})
    job = DistillJob(None, teacher, few, settings)
    report = distill(job, tmp_path / "out", work=tmp_path / "work", threads=1, progress=NO_PROGRESS)
    losses = {int(entry["step"]): entry["held_loss"] for entry in report.curve}
    assert report.stopped_by == "patience"
    assert report.best_step == min(losses, key=lambda step: losses[step])
    assert losses[max(losses)] > report.held_loss_after
    assert report.steps == report.best_step + 4 * 5
    assert report.held_loss_after == losses[report.best_step]


def test_with_text_in_the_loss_its_cross_entropy_chooses_the_state(
    teacher: SourceModel, text: TrainingText, tmp_path: Path
) -> None:
    """A student that starts as its teacher can only move away from it, while it still learns from the text."""
    settings = settings_from(BASE | {"steps": 30, "alpha": 0.95})
    job = DistillJob(teacher, teacher, text, settings)
    report = distill(job, tmp_path / "out", work=tmp_path / "work", threads=1, progress=NO_PROGRESS)
    entries = {int(entry["step"]): entry for entry in report.curve}
    by_text = min(entries, key=lambda step: entries[step]["held_cross_entropy"])
    by_mix = min(entries, key=lambda step: entries[step]["held_loss"])
    assert by_mix == 0 != by_text, "this run cannot tell the two apart"
    assert report.best_step == by_text
    assert report.held_cross_entropy_after == entries[by_text]["held_cross_entropy"]


def make_trainer(student: SourceModel, text: TrainingText, work: Path, **changes: Any) -> Trainer:
    settings = settings_from(BASE | {"steps": 3, "alpha": 0.0} | changes)
    made = FullStudent(student, settings.student())
    parts = Parts(made, None, text, TrainingState(work, {}), StepPacer(3))
    return Trainer(parts, settings, precision="f32")


def gradients(trainer: Trainer, windows: Any) -> list[Any]:
    trainer._accumulate(windows)
    return [parameter.grad for parameter in trainer._parameters]


@pytest.mark.parametrize("changes", [{"micro_tokens": 512}, {"gradient_checkpointing": True}])
def test_pieces_and_checkpointing_give_the_gradient_of_the_whole_batch(
    student: SourceModel, text: TrainingText, tmp_path: Path, changes: dict[str, Any]
) -> None:
    windows = text.trained[:8]
    wanted = gradients(make_trainer(student, text, tmp_path / "a", micro_tokens=64), windows)
    found = gradients(make_trainer(student, text, tmp_path / "b", **changes), windows)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    half = gradients(make_trainer(student, text, tmp_path / "c"), windows[:4])
    assert (half[0] - wanted[0]).abs().max() > 1e-4


def test_weights_that_are_no_numbers_are_told(
    student: SourceModel, text: TrainingText, tmp_path: Path
) -> None:
    trainer = make_trainer(student, text, tmp_path)
    with torch.no_grad():
        trainer._parameters[0][:] = math.nan
    with pytest.raises(UnsupportedModel, match="diverged"):
        trainer.run(NO_PROGRESS)


def test_a_state_of_other_settings_is_not_gone_on_with(
    student: SourceModel, text: TrainingText, tmp_path: Path
) -> None:
    trainer = make_trainer(student, text, tmp_path / "work")
    trainer.run(NO_PROGRESS)
    assert make_trainer(student, text, tmp_path / "work").run_state.step == 3
    TrainingState(tmp_path / "work", {"other": 1})
    assert make_trainer(student, text, tmp_path / "work").run_state.step == 0
