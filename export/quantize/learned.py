"""Distil codes and scales: the quantized model learns the source's own answers, KL divergence over every position.

Starts from what a calibrated solver left, so it can only be kept if it gets better: a slice of the calibration text is not
learned on, and whatever state had the least divergence there is what comes back, the start included. Codes, scales and the
float norms and biases move; sizes do not. Needs the whole model in memory several times over and says so before it starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeport.devices.conversion import LEARNED_BYTES_PER_PARAMETER
from edgeport.errors import DoesNotFit
from edgeport.export.calibrate.state import write_arrays
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.quantize.trainable import trainable
from edgeport.export.recipe import Recipe
from edgeport.export.safetensors_file import SafetensorsFile, SafetensorsFolder
from edgeport.export.source import SourceModel
from edgeport.lazy import missing_extra
from edgeport.progress import Progress
from edgeport.units import format_bytes

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class LearnSettings:
    """value_rate is in units of codes per step, factor_rate relative to a scale, float_rate for norms and biases.

    held_share of the windows is measured on, not learned from, every `measure_steps`; after `patience` measurements
    without a better one learning ends.
    """

    steps: int = 300
    batch_tokens: int = 2048
    value_rate: float = 0.015
    factor_rate: float = 0.0005
    float_rate: float = 0.0005
    warmup_steps: int = 10
    held_share: float = 1 / 12
    measure_steps: int = 25
    patience: int = 4
    seed: int = 0


class Learner:
    """One run over a packed model; `work` keeps its state, so that a killed run goes on to the identical result."""

    def __init__(
        self,
        source: SourceModel,
        recipe: Recipe,
        text: CalibrationText,
        start: SafetensorsFolder,
        settings: LearnSettings = LearnSettings(),
    ) -> None:
        with missing_extra("eval", purpose="distilling codes and scales"):
            import torch

            from edgeport.export.families.network import load_network
        self._torch, self._settings = torch, settings
        self._teacher = load_network(source.directory, dtype=torch.float32)
        self._parts = trainable(source, recipe, start, int8=False)
        self._train, self._held = _split(text.windows, settings.held_share)
        self._optimizer = self._make_optimizer()
        self._step, self._best = 0, float("inf")
        self._since_best = 0
        self._best_arrays: dict[str, npt.NDArray[Any]] = {}

    def run(self, work: Path, *, progress: Progress) -> Path:
        """Learn; returns a safetensors file of packed tensors, named as in the checkpoint."""
        work.mkdir(parents=True, exist_ok=True)
        result = work / "learned.safetensors"
        state = work / "state" / "state.safetensors"
        state.parent.mkdir(exist_ok=True)
        if state.is_file():
            self._restore(state)
        with progress.stage("learn", total=self._settings.steps) as stage:
            stage.advance(self._step)
            if self._step == 0:
                self._measure()
            while self._step < self._settings.steps and self._since_best < self._settings.patience:
                self._learn_batch()
                stage.advance(1)
                if self._step % self._settings.measure_steps == 0:
                    self._measure()
                    self._save(state)
        write_arrays(result, self._best_arrays)
        return result

    @property
    def divergence(self) -> float:
        """Mean KL divergence of the best state on the held windows, in nats per token."""
        return self._best

    def _make_optimizer(self) -> torch.optim.Adam:
        settings, latents = self._settings, self._parts.latents.values()
        groups = [
            {"params": [latent.values for latent in latents], "lr": settings.value_rate},
            {"params": [latent.factors for latent in latents], "lr": settings.factor_rate},
            {"params": list(self._parts.floats.values()), "lr": settings.float_rate},
        ]
        for group in groups:
            group["rate"] = group["lr"]
        return self._torch.optim.Adam([group for group in groups if group["params"]])

    def _divergence_of(
        self, windows: npt.NDArray[np.int64], weights: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Mean KL divergence of the student's next-token distributions from the teacher's, over all positions."""
        torch = self._torch
        tokens = torch.from_numpy(windows)
        with torch.no_grad():
            wanted = torch.log_softmax(self._teacher(tokens, use_cache=False).logits, dim=-1)
        logits = torch.func.functional_call(self._teacher, weights, (tokens,), {"use_cache": False}).logits
        got = torch.log_softmax(logits, dim=-1)
        return (wanted.exp() * (wanted - got)).sum(dim=-1).mean()

    def _learn_batch(self) -> None:
        settings = self._settings
        share = self._step / settings.steps
        warm = min(1.0, (self._step + 1) / settings.warmup_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * warm * 0.5 * (1 + np.cos(np.pi * share))
        # Seeded by the step, so that a resumed run draws what an uninterrupted one does.
        generator = np.random.default_rng((settings.seed, self._step))
        count = min(max(settings.batch_tokens // self._train.shape[1], 1), len(self._train))
        batch = self._train[np.sort(generator.permutation(len(self._train))[:count])]
        self._optimizer.zero_grad()
        self._divergence_of(batch, self._parts.weights()).backward()
        self._optimizer.step()
        self._step += 1

    def _measure(self) -> None:
        """Keep the state when it is the best so far on the held windows."""
        with self._torch.no_grad():
            weights = self._parts.weights()
            losses = [float(self._divergence_of(window[None], weights)) for window in self._held]
        found = float(np.mean(losses))
        if found < self._best:
            self._best, self._since_best = found, 0
            self._best_arrays = self._parts.packed()
        else:
            self._since_best += 1

    def _save(self, path: Path) -> None:
        arrays: dict[str, npt.NDArray[Any]] = {
            f"best:{name}": values for name, values in self._best_arrays.items()
        }
        for name, parameter in self._parts.named_parameters():
            arrays[f"now:{name}"] = parameter.detach().numpy()
            for key, value in self._optimizer.state[parameter].items():
                arrays[f"{key}:{name}"] = np.atleast_1d(value.numpy())
        arrays["counts"] = np.array([self._step, self._since_best], dtype=np.float32)
        # float32 holds half the digits of the best divergence: two of them hold it to the bit of a float64
        high = np.float32(self._best)
        arrays["best_divergence"] = np.array([high, self._best - float(high)], dtype=np.float32)
        write_arrays(path, arrays)

    def _restore(self, path: Path) -> None:
        torch, saved = self._torch, SafetensorsFile(path)
        for name, parameter in self._parts.named_parameters():
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(np.array(saved.tensor(f"now:{name}"))))
            state = self._optimizer.state[parameter]
            state["step"] = torch.tensor(float(saved.tensor(f"step:{name}")[0]))
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = torch.from_numpy(np.array(saved.tensor(f"{key}:{name}")))
        self._step, self._since_best = (int(value) for value in saved.tensor("counts"))
        self._best = float(saved.tensor("best_divergence").astype(np.float64).sum())
        self._best_arrays = {
            name.removeprefix("best:"): np.array(saved.tensor(name))
            for name in saved.entries
            if name.startswith("best:")
        }


def require_memory(parameters: int, available_bytes: int) -> None:
    """Raises DoesNotFit with the numbers when learning a model of this size does not fit."""
    needed = parameters * LEARNED_BYTES_PER_PARAMETER
    if needed > available_bytes:
        raise DoesNotFit(
            f"the solver 'learned' needs {format_bytes(needed)} of memory for {parameters} parameters, "
            f"{format_bytes(available_bytes)} are available",
            hint="use --solver gptaq, which works layer by layer",
        )


def _split(
    windows: npt.NDArray[np.int64], held_share: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(learned from, measured on): every n-th window is held; with a single window both are that one."""
    if len(windows) < 2:
        return windows, windows
    step = max(round(1 / held_share), 2)
    held = (
        np.arange(len(windows)) % step == step // 2
        if len(windows) > step // 2
        else np.arange(len(windows)) == 0
    )
    return windows[~held], windows[held]
