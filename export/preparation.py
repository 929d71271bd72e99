"""Before quantization: prune the source, then let what is left learn from it. Planned from shapes, run in resumable stages."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.prune.plan import PrunePlan, plan_prune
from edgeport.export.recipe import Recipe, parse
from edgeport.export.recover.corpus import load_training, training_key
from edgeport.export.recover.memory import require_training_memory
from edgeport.export.recover.precision import choose_precision
from edgeport.export.recover.settings import DistillSettings
from edgeport.export.source import SourceModel, open_source
from edgeport.manifest import StageFacts
from edgeport.progress import Progress
from edgeport.units import format_count

PRUNED, RECOVERED = "pruned", "recovered"
LEARNING_DISK_BYTES = 32
"""Per parameter: two checkpoints of four float32 values each, because one is written while the other must stay."""


@dataclass(frozen=True, slots=True)
class RecoveryWish:
    """In place of the recipe's: teacher, a model folder or hub id with the same tokenizer; text, sources as
    `recover.corpus` knows them; minutes. store: keeps finished stages between exports, None: they go with the staging folder."""

    teacher: str | None = None
    text: tuple[str, ...] = ()
    minutes: float | None = None
    store: Path | None = None


@dataclass(frozen=True, slots=True)
class Preparation:
    """prune, recover: None where the recipe has no such stage. teacher: None for the source itself.

    shape: the source with the spec of what will be quantized; its weights are not those of that spec. ram_bytes: of learning.
    """

    prune: PrunePlan | None
    recover: DistillSettings | None
    teacher: str | None
    shape: SourceModel
    ram_bytes: int = 0

    @property
    def disk_bytes(self) -> int:
        """Models in 16 bits, and while one learns its weights, moments and best state in float32."""
        parameters = self.shape.spec.parameters()
        models = sum(2 * parameters for stage in (self.prune, self.recover) if stage is not None)
        return models + (LEARNING_DISK_BYTES * parameters if self.recover is not None else 0)

    def lines(self) -> list[str]:
        """What will be done, for the plan."""
        told = []
        if self.prune is not None:
            before, after = self.prune.source.spec, self.shape.spec
            sizes = [
                f"{name} {old} -> {new}"
                for name, old, new in (
                    ("feed-forward", before.intermediate_size, after.intermediate_size),
                    ("heads", before.heads, after.heads),
                    ("KV heads", before.kv_heads, after.kv_heads),
                    ("layers", before.layers, after.layers),
                    ("hidden", before.hidden_size, after.hidden_size),
                )
                if old != new
            ]
            told.append(
                f"prune: {', '.join(sizes)}; {format_count(before.parameters())} -> "
                f"{format_count(after.parameters())} parameters"
            )
            told += [*self.prune.notes, *self.prune.warnings]
        if self.recover is not None:
            minutes = self.recover.minutes_wanted
            length = f"{self.recover.steps} steps" if minutes is None else f"at most {minutes:g} min"
            told.append(
                f"recover: {self.recover.kind} distillation from {self.teacher or 'the source'} on "
                f"{', '.join(self.recover.text)}, {length}"
            )
        return told


def settle_recovery(recipe: Recipe, wish: RecoveryWish) -> Recipe:
    """The recipe with what was asked for on the command line. Raises UsageError for a recipe that recovers nothing."""
    if wish == RecoveryWish(store=wish.store):
        return recipe
    if recipe.recover is None:
        raise UsageError(
            f"a teacher, a text or minutes for recovery, and recipe {recipe.name} recovers nothing",
            hint="take a recipe with a table [recover], such as edge-pruned or distill-int8",
        )
    document = recipe.to_document()
    changes = {"teacher": wish.teacher, "text": list(wish.text) or None, "minutes": wish.minutes}
    if wish.minutes is not None:
        document["recover"].pop("steps", None)
    document["recover"] |= {name: value for name, value in changes.items() if value is not None}
    return parse(document, default_name=recipe.name)


def plan_preparation(source: SourceModel, recipe: Recipe, formats: Sequence[str]) -> Preparation | None:
    """None where the recipe quantizes the source as it is.

    Raises UsageError for what an export cannot judge or a teacher that is missing, DoesNotFit where learning takes more
    memory than there is, and what `plan_prune` raises.
    """
    if not recipe.prepares:
        return None
    if recipe.prune is None and recipe.teacher is None:
        raise UsageError(
            f"recipe {recipe.name} distils without pruning: the source would learn from itself",
            hint="name a better model with the same tokenizer with --teacher, or as recover.teacher in the recipe",
        )
    plan = None
    if recipe.prune is not None:
        if recipe.prune.vocabulary is not None:
            raise UsageError(
                "a vocabulary cannot be trimmed within an export: the gate compares with the source token by token",
                hint="run `edgeport prune --vocabulary` first, and export what it writes",
            )
        plan = plan_prune(source, recipe.prune, formats)
    shape = source if plan is None else replace(source, spec=plan.spec)
    ram_bytes = 0
    if recipe.recover is not None:
        teacher = open_source(recipe.teacher) if recipe.teacher is not None else source
        memory = require_training_memory(
            teacher, shape, recipe.recover, precision=choose_precision(recipe.recover.precision)
        )
        ram_bytes = memory.total_bytes
    return Preparation(plan, recipe.recover, recipe.teacher, shape, ram_bytes)


@dataclass(frozen=True, slots=True)
class Prepared:
    """model: what is quantized, under the name of the source. stages: folder by name, in order."""

    model: SourceModel
    stages: Mapping[str, Path]
    seconds: Mapping[str, float]

    def facts(self) -> list[StageFacts]:
        """Shape and cost; quality is measured by the gate."""
        found = []
        for name, folder in self.stages.items():
            model = open_source(str(folder))
            size_bytes = model.facts().size_bytes
            found.append(StageFacts(name, model.spec.parameters(), size_bytes, self.seconds.get(name)))
        return found


@dataclass(frozen=True, slots=True)
class PreparationWork:
    """store: finished stages by what they depend on, for this run, the next, and whoever prepares the same."""

    store: Path
    threads: int
    progress: Progress


def prepare(
    wanted: Preparation,
    source: SourceModel,
    text: CalibrationText | None,
    heldout: Path | None,
    work: PreparationWork,
) -> Prepared:
    """Run the stages that are not in the store yet; a killed one goes on where it was. heldout: never trained on.

    Raises what `prune` and `distill` raise.
    """
    model, stages, seconds = source, {}, {}
    key: dict[str, Any] = {"source": source.fingerprint(), "threads": work.threads}
    if wanted.prune is not None:
        assert text is not None, "the plan asks for calibration text wherever there is something to prune"
        key |= {"prune": wanted.prune.settings.to_document(), "text": text.sha256}
        place = _Place(work.store, PRUNED, key)
        stages[PRUNED], seconds[PRUNED] = place.finish(_pruning(wanted.prune, text, work))
        model = open_source(str(stages[PRUNED]))
    if wanted.recover is not None:
        teacher = open_source(wanted.teacher) if wanted.teacher is not None else source
        key |= {"recover": wanted.recover.to_document(), "teacher": teacher.fingerprint()}
        # With another held-out text a stored model may have been trained on what it would now be judged on.
        key |= {"training": training_key(source, wanted.recover, heldout)}
        place = _Place(work.store, RECOVERED, key)
        job = _recovery(wanted.recover, (source, teacher, model), heldout, work)
        stages[RECOVERED], seconds[RECOVERED] = place.finish(job)
        model = open_source(str(stages[RECOVERED]))
    return Prepared(replace(model, name=source.name, location=source.location), stages, seconds)


Job = Callable[[Path, Path], None]
"""Writes a model folder, given where to and a folder for what survives a kill."""


class _Place:
    """One finished folder in the store, its working folder, and the seconds it took over all its runs."""

    def __init__(self, store: Path, name: str, key: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self._folder = store / f"{name}-{digest}"
        self._work = store / f"{name}-{digest}.work"
        self._clock = store / f"{name}-{digest}.seconds"

    def finish(self, job: Job) -> tuple[Path, float]:
        """The folder, made now unless it is there whole."""
        if not self._folder.is_dir():
            self._work.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            try:
                job(self._folder, self._work)
            finally:
                spent = self._seconds() + time.perf_counter() - started
                self._clock.write_text(f"{spent:.1f}", encoding="utf-8")
            shutil.rmtree(self._work)
        return self._folder, self._seconds()

    def _seconds(self) -> float:
        return float(self._clock.read_text(encoding="utf-8")) if self._clock.is_file() else 0.0


def _pruning(plan: PrunePlan, text: CalibrationText, work: PreparationWork) -> Job:
    from edgeport.export.prune.run import prune

    def job(out: Path, scratch: Path) -> None:
        prune(plan, text, out, work=scratch, threads=work.threads, progress=work.progress)

    return job


def _recovery(
    settings: DistillSettings,
    models: tuple[SourceModel, SourceModel, SourceModel],
    heldout: Path | None,
    work: PreparationWork,
) -> Job:
    """models: the source, its teacher, and what is left of the source."""
    from edgeport.export.recover.distill import DistillJob, distill

    source, teacher, student = models

    def job(out: Path, scratch: Path) -> None:
        text = load_training(source, settings, heldout=heldout, work=scratch / "text", progress=work.progress)
        learn = DistillJob(teacher, student, text, settings)
        distill(learn, out, work=scratch / "learn", threads=work.threads, progress=work.progress)

    return job
