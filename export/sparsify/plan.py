"""Check a model and settings before any work: what will be zero, and what that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeport.devices.conversion import CalibrationLoad, conversion_memory
from edgeport.devices.probe import read_host
from edgeport.errors import DoesNotFit, UnsupportedModel
from edgeport.export.families.storage import require_plain
from edgeport.export.recipe import load_recipe
from edgeport.export.sizes import model_facts
from edgeport.export.source import SourceModel
from edgeport.export.sparsify.methods import METHODS
from edgeport.export.sparsify.pattern import PATTERNS
from edgeport.export.sparsify.schedule import cubic_schedule
from edgeport.export.sparsify.settings import SparsifySettings, check_settings
from edgeport.units import format_bytes


@dataclass(frozen=True, slots=True)
class SparsifyPlan:
    """schedule: sparsity after each round. weights: in the decoder's linears. peak_bytes: memory while calibrating."""

    source: SourceModel
    settings: SparsifySettings
    schedule: tuple[float, ...]
    weights: int
    peak_bytes: int

    @property
    def needs_text(self) -> bool:
        return METHODS[self.settings.method].needs != "nothing"

    def to_document(self) -> dict[str, Any]:
        return {
            "source": self.source.name,
            "settings": self.settings.to_document(),
            "schedule": list(self.schedule),
            "weights": self.weights,
            "zeros": round(self.weights * self.settings.sparsity),
            "peak_bytes": self.peak_bytes,
        }


def plan_sparsify(source: SourceModel, settings: SparsifySettings) -> SparsifyPlan:
    """Raises UsageError for settings that contradict each other, UnsupportedModel where a pattern's groups do not fit the
    model's widths or its folder cannot be written back, DoesNotFit when the calibration pass exceeds the free memory."""
    check_settings(settings)
    require_plain(source.spec.storage, source.spec.family, "sparsifying")
    linears = [item for item in source.spec.tensors() if item.role == "linear"]
    group = PATTERNS[settings.pattern].group
    unfit = [item for item in linears if group and item.shape[1] % group]
    if unfit:
        shown = ", ".join(f"{item.name} has {item.shape[1]}" for item in unfit[:3])
        raise UnsupportedModel(
            f"pattern {settings.pattern} needs input widths divisible by {group}: {shown}",
            hint="take --pattern unstructured",
        )
    return SparsifyPlan(
        source,
        settings,
        cubic_schedule(settings.sparsity, settings.rounds),
        sum(item.shape[0] * item.shape[1] for item in linears),
        _require_memory(source, settings),
    )


def _require_memory(source: SourceModel, settings: SparsifySettings) -> int:
    needs = METHODS[settings.method].needs
    if needs == "nothing":
        return 0
    recipe = load_recipe("bf16")
    estimate = conversion_memory(
        model_facts(source.spec, recipe),
        largest_bits_per_weight=16,
        threads=1,
        calibration=CalibrationLoad(needs == "hessian"),
    )
    stage = next(stage for stage in estimate.stages if stage.stage == "calibrate")
    available_bytes = read_host().available_bytes
    if stage.bytes > available_bytes:
        raise DoesNotFit(
            f"method {settings.method} needs {format_bytes(stage.bytes)} of memory ({stage.basis}), "
            f"{format_bytes(available_bytes)} are available",
            hint="take --method wanda, which holds no Hessian, or magnitude",
        )
    return stage.bytes
