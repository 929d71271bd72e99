"""Prune: score on the source, choose, solve what is kept, write the folder. Resumes after a kill, to the same bytes."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UsageError
from edgeport.export.calibrate.run import collect_statistics
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.families.table import read_spec
from edgeport.export.provenance import PROVENANCE_NAME, earlier_provenance
from edgeport.export.prune.config import changed_config
from edgeport.export.prune.kept import Kept
from edgeport.export.prune.method import Scoring
from edgeport.export.prune.perplexity import window_perplexity
from edgeport.export.prune.plan import PrunePlan, settled
from edgeport.export.prune.reconstruct import TrunkModel, reconstruct
from edgeport.export.prune.report import PruneReport, kept_summary, provenance
from edgeport.export.prune.table import METHODS, get_method
from edgeport.export.prune.write import Array, Replaced, write_json, write_side_files, write_weights
from edgeport.export.safetensors_file import SafetensorsFile
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import Progress

HELD_EVERY = 8
"""One window in so many is measured on and not chosen on."""
MOST_HELD = 16
_WIDTHS = ("ffn", "heads", "embedding")


@dataclass(frozen=True, slots=True)
class Workbench:
    """Where a run works; everything below `work` is keyed by what it depends on."""

    work: Path
    threads: int
    progress: Progress


def prune(
    plan: PrunePlan, text: CalibrationText, out: Path, *, work: Path, threads: int, progress: Progress
) -> PruneReport:
    """Write the cut model to folder `out`, which must not hold files yet; it appears by one rename.

    The same call after a kill goes on from the last whole layer in `work` and gives the same bytes. Raises UsageError for
    files in `out` and for a text of less than two windows, UnsupportedModel when activations are not finite.
    """
    started = time.monotonic()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already", hint="give a folder that does not exist yet")
    work.mkdir(parents=True, exist_ok=True)
    bench = Workbench(work, threads, progress)
    chosen_on, held = split_text(text)
    kept = choose(plan, chosen_on, bench)
    plan = settled(plan, kept)
    solved = _solved(plan, kept, chosen_on, bench)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with progress.stage("write", total=sum(1 for _ in plan.spec.tensors())) as stage:
        write_side_files(part, plan.source, plan.config, plan.vocabulary)
        write_weights(part, plan.source, kept, plan.spec, solved, stage.advance)
    before, after, windows = _damage(plan, part, held, bench)
    report = PruneReport(
        parameters_before=plan.source.spec.parameters(),
        parameters_after=plan.spec.parameters(),
        perplexity_before=before,
        perplexity_after=after,
        held_windows=windows,
        held_n_ctx=held.shape[1],
        calibration=text.origin,
        kept=kept_summary(kept, plan),
        seconds=time.monotonic() - started,
    )
    write_json(part / PROVENANCE_NAME, provenance(plan, report, earlier_provenance(plan.source)))
    part.rename(out)
    return report


def split_text(text: CalibrationText) -> tuple[CalibrationText, npt.NDArray[np.int64]]:
    """Windows to choose on, and held windows [held, n_ctx] to measure on. Raises UsageError for less than two windows."""
    count = len(text.windows)
    if count < 2:
        raise UsageError(
            f"{text.origin}: pruning needs two windows of calibration text, one to measure on",
            hint="give more --calibration-tokens, or a shorter --calibration-context",
        )
    held = np.arange(count - 1, -1, -HELD_EVERY)[:MOST_HELD][::-1]
    rest = np.setdiff1d(np.arange(count), held)
    windows = text.windows[rest]
    digest = hashlib.sha256(windows.astype("<i8").tobytes() + str(windows.shape).encode()).hexdigest()
    return CalibrationText(windows, text.origin, digest), text.windows[held]


def choose(plan: PrunePlan, text: CalibrationText, bench: Workbench) -> Kept:
    """All methods that were asked for, depth first; scores are of the source."""
    wanted = plan.settings.amounts()
    statistics = None
    if plan.settings.importance == "activation" and any(name in wanted for name in _WIDTHS):
        path = collect_statistics(
            plan.source, text, bench.work / "scores", threads=bench.threads, progress=bench.progress
        )
        statistics = SafetensorsFile(path)
    scoring = Scoring(
        source=plan.source,
        spec=plan.spec,
        settings=plan.settings,
        snap=plan.snap,
        text=text,
        work=bench.work,
        threads=bench.threads,
        progress=bench.progress,
        statistics=statistics,
    )
    kept = Kept(layers=tuple(range(plan.source.spec.layers)))
    for name in METHODS:
        if name in wanted:
            kept = get_method(name).keep(scoring, kept)
    if plan.vocabulary is not None:
        kept = replace(kept, tokens=plan.vocabulary.tokens)
    return kept


def _solved(plan: PrunePlan, kept: Kept, text: CalibrationText, bench: Workbench) -> Replaced:
    """Reconstructed weights by name; nothing where there is nothing to reconstruct."""
    if not plan.settings.reconstruct or not (kept.ffn or kept.query_heads):
        return _nothing
    trunk = TrunkModel(_trunk(plan, kept, bench), kept, plan.source.spec.head_dim)
    results = reconstruct(
        trunk, text, bench.work / "reconstruct", threads=bench.threads, progress=bench.progress
    )

    def find(name: str) -> Array | None:
        return results.tensor(name) if name in results else None

    return find


def _nothing(_name: str) -> None:
    return None


def _trunk(plan: PrunePlan, kept: Kept, bench: Workbench) -> SourceModel:
    """The model with fewer layers and hidden channels, and all that runs within its layers; in `work` where it differs."""
    if kept.hidden is None and len(kept.layers) == plan.source.spec.layers:
        return plan.source
    folder = bench.work / "trunk"
    changes = {key: plan.config[key] for key in ("num_hidden_layers", "hidden_size", "rms_norm_eps")} | {
        "head_dim": plan.source.spec.head_dim
    }
    config = changed_config(plan.source.spec.config, changes, [])
    uncut = Kept(kept.layers, kept.hidden)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_side_files(folder, plan.source, config, None)
    with bench.progress.stage("write the trunk") as stage:
        write_weights(folder, plan.source, uncut, read_spec(config), _nothing, stage.advance)
    return open_source(str(folder))


def _damage(
    plan: PrunePlan, part: Path, held: npt.NDArray[np.int64], bench: Workbench
) -> tuple[float | None, float | None, int]:
    """Perplexity before and after on the same held windows, those that the kept tokens can write."""
    renamed = held
    if plan.vocabulary is not None:
        tokens = plan.vocabulary.tokens
        held = held[np.isin(held, tokens).all(axis=1)]
        renamed = np.searchsorted(tokens, held)
    if not len(held):
        return None, None, 0
    measure = functools.partial(window_perplexity, threads=bench.threads, progress=bench.progress)
    key = {
        "source": plan.source.fingerprint(),
        "windows": hashlib.sha256(held.astype("<i8").tobytes()).hexdigest(),
        "n_ctx": held.shape[1],
        "threads": bench.threads,
    }
    before = _remembered(bench.work / "before.json", key, lambda: measure(plan.source, held))
    return before, measure(open_source(str(part)), renamed), len(held)


def _remembered(path: Path, key: dict[str, Any], compute: Callable[[], float]) -> float:
    """A number that is kept in `path` with what it depends on."""
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] == key:
            return float(found["value"])
    value = compute()
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"key": key, "value": value}), encoding="utf-8")
    part.replace(path)
    return value
