"""The training loop: batches in a fixed order, losses, AdamW, a schedule, measurements on held windows, checkpoints."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UnsupportedModel
from edgeport.export.recover.corpus import TrainingText, batch_windows
from edgeport.export.recover.losses import Losses, Target, measure_losses
from edgeport.export.recover.precision import autocast
from edgeport.export.recover.schedule import Pacer, learning_rate_factor
from edgeport.export.recover.settings import DistillSettings
from edgeport.export.recover.student import Student
from edgeport.export.recover.teacher import Teacher
from edgeport.export.recover.training_state import TrainingState
from edgeport.progress import Progress, Stage

if TYPE_CHECKING:
    import torch

_CHECKPOINT_SECONDS = 60.0
_BETAS = (0.9, 0.95)
_PEAK = "peak_lr"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is made of; teacher None: trained on the text alone."""

    student: Student
    teacher: Teacher | None
    text: TrainingText
    state: TrainingState
    pacer: Pacer


class Trainer:
    """One run; a second one over the same `TrainingState` goes on where the first was killed, to the identical result."""

    def __init__(self, parts: Parts, settings: DistillSettings, *, precision: str) -> None:
        self._parts, self._settings, self._precision = parts, settings, precision
        self._optimizer = make_optimizer(parts.student)
        self._parameters = [
            parameter for group in self._optimizer.param_groups for parameter in group["params"]
        ]
        self._micro_windows = max(settings.micro_tokens // settings.n_ctx, 1)
        pieces = max(round(settings.batch_tokens / (self._micro_windows * settings.n_ctx)), 1)
        self._batch_windows = pieces * self._micro_windows
        self.run_state = parts.state.restore(parts.student, self._optimizer)
        self._clock = 0.0

    def run(self, progress: Progress) -> str:
        """Train to the end; returns `schedule` or `patience`. The student then has its best state."""
        run, settings = self.run_state, self._settings
        stopped_by = "schedule"
        self._clock = time.perf_counter()
        saved_seconds = run.seconds
        with progress.stage("distill") as stage:
            stage.started -= run.seconds
            if not run.curve:
                self._measure(math.nan)
                self._save()
            while not run.finished:
                if run.since_best >= settings.patience:
                    stopped_by = "patience"
                    break
                loss = self._step()
                self._tick()
                if run.step % settings.measure_steps == 0 or run.finished:
                    self._measure(loss)
                if run.seconds - saved_seconds >= _CHECKPOINT_SECONDS:
                    self._save()
                    saved_seconds = run.seconds
                self._show(stage)
            self._save()
        self._parts.state.restore_best(run.best_step, self._parts.student)
        return stopped_by

    def _step(self) -> float:
        """One optimizer step; returns its mean loss."""
        import torch

        run, settings = self.run_state, self._settings
        run.set_pace(self._parts.pacer.pace(run))
        factor = self._rate_factor()
        for group in self._optimizer.param_groups:
            group["lr"] = group[_PEAK] * factor
        numbers = batch_windows(self._parts.text, run.step, self._batch_windows, settings.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(
                (settings.seed << 32) + run.step
            )  # a student may draw: a resumed one draws the same
            loss = self._accumulate(numbers)
        if not math.isfinite(loss):
            raise _diverged(loss, run.step)
        torch.nn.utils.clip_grad_norm_(self._parameters, settings.gradient_clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        run.step += 1
        run.share += run.pace
        run.tokens += numbers.size * settings.n_ctx
        return loss

    def _rate_factor(self) -> float:
        run, settings = self.run_state, self._settings
        return learning_rate_factor(
            min(run.share + run.pace / 2, 1.0),  # the middle of the step
            warmup_share=settings.warmup_share,
            final_share=settings.final_learning_rate_share,
        )

    def _accumulate(self, numbers: npt.NDArray[np.int64]) -> float:
        """Leave the mean gradient over the windows in the parameters; returns the mean loss."""
        pieces = np.split(numbers, range(self._micro_windows, len(numbers), self._micro_windows))
        total = 0.0
        for piece in pieces:
            loss = self._losses(piece).total / len(pieces)
            loss.backward()
            total += float(loss.detach())
        return total

    def _losses(self, numbers: npt.NDArray[np.int64]) -> Losses:
        import torch

        settings, parts = self._settings, self._parts
        tokens = torch.from_numpy(parts.text.windows[numbers].astype(np.int64))
        target: Target | None = None if parts.teacher is None else parts.teacher.targets(numbers, tokens)
        with autocast(self._precision):
            output = parts.student.forward(tokens, hidden_states=settings.hidden_weight > 0)
        return measure_losses(output, target, tokens, settings.loss())

    def _measure(self, training_loss: float) -> None:
        """Losses on the held windows, into the curve; the best state is kept."""
        import torch

        run, settings = self.run_state, self._settings
        held = self._parts.text.held
        sums, counted = np.zeros(3), 0
        with torch.no_grad():
            for start in range(0, len(held), self._micro_windows):
                piece = held[start : start + self._micro_windows]
                losses = self._losses(piece)
                soft = math.nan if losses.soft is None else float(losses.soft)
                sums += len(piece) * np.array([float(losses.total), float(losses.hard), soft])
                counted += len(piece)
        total, hard, soft = (sums / counted).tolist()
        if not math.isfinite(total):
            raise _diverged(total, run.step)
        self._tick()
        entry = {"step": run.step, "tokens": run.tokens, "seconds": round(run.seconds, 3)}
        entry |= {"held_loss": total, "held_cross_entropy": hard, "held_divergence": soft}
        entry |= {"training_loss": training_loss}
        entry |= {"learning_rate": settings.learning_rate * self._rate_factor() if run.step else 0.0}
        run.curve.append({name: value for name, value in entry.items() if not math.isnan(value)})
        # The mix weighs two units against each other; where text takes part, its likelihood is what the model is for.
        judged = hard if settings.alpha < 1 else total
        if judged < run.best_loss:
            run.best_loss, run.best_step, run.since_best = judged, run.step, 0
            self._parts.state.keep_best(run.step, self._parts.student)
        else:
            run.since_best += 1

    def _tick(self) -> None:
        now = time.perf_counter()
        self.run_state.seconds += now - self._clock
        self._clock = now

    def _save(self) -> None:
        if self._parts.teacher is not None:
            self._parts.teacher.sync()
        self._tick()
        self._parts.state.save(self.run_state, self._parts.student, self._optimizer)

    def _show(self, stage: Stage) -> None:
        run = self.run_state
        stage.total = round(run.step + (1 - run.share) / run.pace)
        stage.done = run.step
        loss, rate = run.curve[-1]["held_loss"], run.tokens / max(run.seconds, 1e-9)
        stage.title = f"distill  held-out loss {loss:.4f}  {rate:.0f} tokens/s  step"


def _diverged(loss: float, step: int) -> UnsupportedModel:
    return UnsupportedModel(
        f"the loss is {loss} at step {step}: training diverged",
        hint="take a smaller --learning-rate, or --precision f32",
    )


def make_optimizer(student: Student) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) over the student's groups; each group's own rate is its peak."""
    import torch

    groups: list[dict[str, Any]] = [group | {_PEAK: group["lr"]} for group in student.parameter_groups()]
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=_BETAS, fused=True)
