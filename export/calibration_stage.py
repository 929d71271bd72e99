"""The calibration text of one export, made once and kept in the staging folder: sampling it from the model takes minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgeport.errors import UsageError
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.methods import CalibrationPlan
from edgeport.export.source import SourceModel
from edgeport.export.staging import Staging
from edgeport.progress import Progress

_WINDOWS, _FACTS = "windows.npy", "facts.json"


def calibration_text(
    plan: CalibrationPlan, source: SourceModel, staging: Staging, progress: Progress
) -> CalibrationText:
    """Load or sample the text, unless an earlier run of the same export has. Raises UsageError for a text that cannot be used."""
    key = {
        "wanted": plan.wanted,
        "files": _file_facts(Path(plan.wanted)),
        "heldout": _file_facts(plan.heldout) if plan.heldout is not None else [],
        "tokens": plan.tokens,
        "n_ctx": plan.n_ctx,
        "source": source.fingerprint(),
    }
    folder = staging.directory / "calibration"

    def build(target: Path) -> None:
        from edgeport.export.calibrate.sources import load_calibration

        text = load_calibration(
            plan.wanted, source, tokens=plan.tokens, n_ctx=plan.n_ctx, heldout=plan.heldout, progress=progress
        )
        np.save(target / _WINDOWS, text.windows)
        facts = {"origin": text.origin, "sha256": text.sha256}
        (target / _FACTS).write_text(json.dumps(facts), encoding="utf-8")

    staging.stage(folder, key, build)
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    return CalibrationText(np.load(folder / _WINDOWS), facts["origin"], facts["sha256"])


def text_facts(text: CalibrationText | None, plan: CalibrationPlan | None) -> dict[str, Any]:
    """For the manifest; empty where nothing was calibrated."""
    if text is None or plan is None:
        return {}
    windows, n_ctx = text.windows.shape
    return {
        "origin": text.origin,
        "sha256": text.sha256,
        "tokens": int(windows * n_ctx),
        "n_ctx": int(n_ctx),
        "used_by": list(plan.reasons),
    }


def _file_facts(path: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a file, or of the files in a folder; empty for what is neither."""
    try:
        paths = sorted(path.rglob("*")) if path.is_dir() else [path]
        stats = [(str(item), item.stat()) for item in paths if item.is_file()]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return [(name, found.st_size, found.st_mtime_ns) for name, found in stats]
