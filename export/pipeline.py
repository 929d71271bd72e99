"""Run a plan: build, prove, judge, climb the ladder when the gate says no, publish by one rename."""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeport.errors import DoesNotFit, GateFailure, MissingExtra, UsageError
from edgeport.export.build import Built, Workshop, build, rung_key, tool_versions
from edgeport.export.gate.ladder import Rung, Step, skipped, step_of
from edgeport.export.gate.lines import mendable
from edgeport.export.gate.path import path_text
from edgeport.export.gate.run import GateReport
from edgeport.export.judge import Judge
from edgeport.export.request import ExportPlan, replan
from edgeport.export.staging import Staging
from edgeport.export.timing import Clock, compare_memory
from edgeport.export.verify.artifact import Verification
from edgeport.manifest import Manifest, read_manifest, to_json, write_manifest
from edgeport.progress import Progress

__all__ = ["ExportResult", "run", "tool_versions"]

Tell = Callable[[str], None]
AS_ASKED = "as asked"


@dataclass(frozen=True, slots=True)
class ExportResult:
    """report: None when the export was not judged. path: what the ladder tried, the last step is what was published."""

    manifest: Manifest
    verification: Verification
    directory: Path
    report: GateReport | None = None
    path: tuple[Step, ...] = ()


def run(plan: ExportPlan, *, progress: Progress, tell: Tell | None = None) -> ExportResult:
    """Build the artifact and rename it to `plan.request.out`; `tell` hears of each step of the ladder.

    Raises GateFailure when a container does not verify, or when the gate says no to the recipe and to every rung of the
    ladder: the last attempt is kept beside the output as `OUT.rejected`. Without verification (`plan.request.verify`
    false) the manifest says so of every container, and nothing is judged.
    """
    with Staging(plan.request.out, resume=plan.request.resume) as staging:
        shop = Workshop(staging, progress)
        result = _Climb(plan, shop, tell or (lambda text: None)).run()
        staging.publish()
    return result


class _Climb:
    """One export from the recipe that was asked for to the rung that passes. `path` is what happened so far."""

    def __init__(self, plan: ExportPlan, shop: Workshop, tell: Tell) -> None:
        self._plan = plan
        self._shop = shop
        self._tell = tell
        self._judge = Judge(plan, shop)
        self._memory = _Memory(shop.staging.directory / "ladder.json")
        self._path: list[Step] = []

    def run(self) -> ExportResult:
        for rung in (Rung(AS_ASKED, self._plan.recipe, self._plan.mix), *self._plan.ladder):
            result, goes_on = self._try(rung)
            if result is not None:
                return result
            if not goes_on:
                break
        raise self._failure()

    def _try(self, rung: Rung) -> tuple[ExportResult | None, bool]:
        """The finished export, or whether a further rung may help."""
        try:
            plan = self._plan if rung.name == AS_ASKED else replan(self._plan, rung)
            key = {**rung_key(plan), **self._judge.key()}
            known = self._memory.failed(key)
            if known is not None:
                return None, self._note(known)
            started = time.perf_counter()
            shop = replace(self._shop, clock=Clock(self._earlier_seconds()))
            built = build(plan, shop)
        except (UsageError, DoesNotFit, MissingExtra) as error:
            if rung.name == AS_ASKED:
                raise
            return None, self._note(skipped(rung, error.message))
        _require_verified(built, self._shop.staging, shop.clock)
        if not plan.judged:
            manifest = _finished(built, shop.staging.final, shop.clock, {})
            write_manifest(manifest, shop.staging.final)
            return ExportResult(manifest, built.verification, plan.request.out), False
        with shop.clock.timed("gate"):
            report = self._judge.report(built)
        step = step_of(
            replace(rung, recipe=built.plan.recipe),
            report,
            bits_per_weight=built.plan.facts.bits_per_weight,
            size_bytes=max(entry.size_bytes for entry in built.manifest.containers),
            seconds=time.perf_counter() - started,
        )
        self._note(step)
        manifest = _finished(built, shop.staging.final, shop.clock, self._judge.document(report, self._path))
        write_manifest(manifest, shop.staging.final)
        if report.verdict != "fail":
            path = tuple(self._path)
            return ExportResult(manifest, built.verification, plan.request.out, report, path), False
        self._memory.remember(key, step)
        return None, mendable(report.lines)

    def _earlier_seconds(self) -> dict[str, float]:
        spent = sum(step.seconds or 0.0 for step in self._path)
        return {"earlier rungs": spent} if spent else {}

    def _note(self, step: Step) -> bool:
        self._path.append(step)
        if self._plan.ladder or step.verdict != "pass":
            self._tell(path_text([step], header=len(self._path) == 1))
        return True

    def _failure(self) -> GateFailure:
        aside = self._shop.staging.reject()
        tried = [step for step in self._path if step.verdict == "fail"]
        told = "; ".join(tried[-1].failed[:3]) if tried else "nothing was tried"
        more = len(tried[-1].failed) - 3 if tried else 0
        extra = f"; and {more} more" if more > 0 else ""
        climbed = f" on any of {len(self._path)} rungs" if len(self._path) > 1 else ""
        return GateFailure(
            f"the gate says no{climbed}: {told}{extra}\n{path_text(self._path)}",
            hint=f"the last attempt is kept in {aside}; nothing was published. "
            "Allow more with --max-loss, or more room with --target-memory or another --device",
        )


class _Memory:
    """Rungs that failed before a kill, so that a resumed export does not try them again."""

    def __init__(self, path: Path) -> None:
        self._file = path

    def failed(self, key: Mapping[str, Any]) -> Step | None:
        document = self._read().get(_digest(key))
        return Step.from_document(document) if document is not None else None

    def remember(self, key: Mapping[str, Any], step: Step) -> None:
        document = {**self._read(), _digest(key): step.to_document()}
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(document), encoding="utf-8")
        part.replace(self._file)

    def _read(self) -> dict[str, Any]:
        if not self._file.is_file():
            return {}
        document: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
        return document


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(to_json(key), sort_keys=True).encode()).hexdigest()


def _finished(built: Built, directory: Path, clock: Clock, gate: Mapping[str, Any]) -> Manifest:
    """The manifest with verdicts and costs; evaluation has written its figures into the staged file meanwhile."""
    containers = tuple(
        replace(entry, verified=built.verification.container_passed(entry.format))
        for entry in built.manifest.containers
    )
    own, children = (
        resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    cost = {
        "seconds": dict(clock.seconds),
        # stages reset the mark that the system's figure of this process comes from
        "peak_ram_bytes": max(own, *clock.peak_bytes.values(), 0),
        "verify_peak_ram_bytes": children,
        "stage_memory": compare_memory(built.plan.conversion, clock),
    }
    staged = read_manifest(directory)
    return replace(
        built.manifest,
        containers=containers,
        cost=cost,
        gate=gate,
        quality=staged.quality,
        stages=staged.stages,
    )


def _require_verified(built: Built, staging: Staging, clock: Clock) -> None:
    """Raises GateFailure, with the files kept aside, when a container is not what was quantized: no rung mends that."""
    if not built.plan.request.verify or built.verification.passed:
        return
    write_manifest(_finished(built, staging.final, clock, {}), staging.final)
    failed = [check for check in built.verification.checks if not check.passed]
    told = "; ".join(f"{check.container} {check.name}: {check.detail}" for check in failed)
    aside = staging.reject()
    raise GateFailure(
        f"the export does not verify: {told}",
        hint=f"the files are kept in {aside} for a look; nothing was published",
    )
