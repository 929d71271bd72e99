"""What must be true before an export starts: a free output, enough disk, enough memory here."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgeport.devices.conversion import CalibrationLoad, ConversionEstimate, conversion_memory
from edgeport.devices.probe import read_host
from edgeport.errors import DoesNotFit, UsageError
from edgeport.export.quantize.solvers import SOLVERS
from edgeport.manifest import MANIFEST_NAME, ModelFacts
from edgeport.units import format_bytes


def require_free_output(out: Path, *, force: bool, mark: str = MANIFEST_NAME) -> None:
    """An older result, which the file `mark` tells, may be replaced when that is asked for; anything else there is the
    user's own. Raises UsageError."""
    if not out.exists():
        return
    if not force:
        raise UsageError(f"{out} exists already", hint="give another -o, or --force to replace it")
    if not out.is_dir() or (any(out.iterdir()) and not (out / mark).is_file()):
        raise UsageError(
            f"{out} was not made by edgeport, and --force replaces nothing else", hint="give another -o"
        )


def require_disk(out: Path, needed_bytes: int) -> None:
    folder = next(parent for parent in (out, *out.absolute().parents) if parent.is_dir())
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise DoesNotFit(
            f"the export needs {format_bytes(needed_bytes)} on disk, {folder} has {format_bytes(free_bytes)} free",
            hint="free some space, choose another -o, or fewer --format",
        )


def require_memory(
    facts: ModelFacts, *, largest_bits_per_weight: float, threads: int, solver: str
) -> ConversionEstimate:
    """Memory of every stage of an export. Raises DoesNotFit with the stage that needs most, and what would make it fit."""
    estimate = conversion_memory(
        facts,
        largest_bits_per_weight=largest_bits_per_weight,
        threads=threads,
        calibration=calibration_load(solver),
    )
    available_bytes = read_host().available_bytes
    if estimate.peak_bytes > available_bytes:
        worst = max(estimate.stages, key=lambda stage: stage.bytes)
        cures = {
            "calibrate": "use --solver imatrix or rtn, which hold no Hessian",
            "learn": "use --solver gptaq",
        }
        raise DoesNotFit(
            f"the export needs {format_bytes(worst.bytes)} of memory to {worst.stage} ({worst.basis}), "
            f"{format_bytes(available_bytes)} are available",
            hint=cures.get(worst.stage, "use fewer --threads") + ", or close other programs",
        )
    return estimate


def calibration_load(solver: str) -> CalibrationLoad | None:
    """What the calibration pass of a solver has to hold; None for one that needs no pass."""
    entry = SOLVERS[solver]
    if entry.needs == "nothing":
        return None
    return CalibrationLoad(entry.needs == "hessian", 2 if entry.corrects else 1, entry.learns)
