"""The gate of one export: its text, its baseline, and a report for each rung of the ladder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgeport.errors import EdgeportError, UsageError
from edgeport.export.build import Built, Workshop
from edgeport.export.gate.baseline import Baseline
from edgeport.export.gate.deployment import deployment_lines
from edgeport.export.gate.heldout import HeldoutText, sample_heldout
from edgeport.export.gate.ladder import Step
from edgeport.export.gate.lines import overall
from edgeport.export.gate.run import (
    GateJob,
    GateReport,
    check_source,
    failed_to_run,
    judge,
    not_judged_at_all,
)
from edgeport.export.gate.stages import measure_stages
from edgeport.export.request import ExportPlan
from edgeport.export.sixteen_bit import build_sixteen_bit
from edgeport.manifest import to_json


class Judge:
    """Asks the source once, then judges as many attempts as it gets."""

    def __init__(self, plan: ExportPlan, shop: Workshop) -> None:
        self._plan = plan
        self._shop = shop
        self._baseline: Baseline | GateReport | None = None
        self._text: HeldoutText | None = plan.heldout

    def key(self) -> dict[str, Any]:
        """What a verdict depends on beside the artifact."""
        wish = self._plan.request.gate
        return {
            "enabled": self._plan.judged,
            "thresholds": to_json(wish.thresholds),
            "deployment": wish.deployment_checks,
            "text": self._plan.heldout.sha256() if self._plan.heldout is not None else None,
        }

    def report(self, built: Built) -> GateReport:
        """Never raises for what the gate found; an engine that dies is a finding."""
        baseline = self._source_baseline()
        if isinstance(baseline, GateReport):
            return self._with_deployment(baseline, built)
        try:
            text = self._heldout()
        except UsageError as error:
            return not_judged_at_all(error.message, baseline=baseline)
        job = GateJob(
            directory=self._shop.staging.final,
            source=built.plan.original,
            text=text,
            limits=built.plan.request.gate.thresholds,
            threads=built.plan.threads,
            own_schemes=tuple(built.plan.native),
        )
        try:
            if built.stages:
                measure_stages(job, built.stages, self._shop.progress)
            return self._with_deployment(judge(job, baseline, self._shop.progress), built)
        except UsageError as error:
            return not_judged_at_all(error.message, baseline=baseline, origin=text.origin)
        except EdgeportError as error:
            return failed_to_run(error, job, baseline)

    def document(self, report: GateReport, path: Sequence[Step]) -> dict[str, Any]:
        """The manifest's `gate`: the report, what was demanded, and how the ladder got here."""
        return {
            **report.to_document(),
            "thresholds": to_json(self._plan.request.gate.thresholds),
            "rung": path[-1].rung,
            "ladder": [step.to_document() for step in path],
        }

    def _source_baseline(self) -> Baseline | GateReport:
        if self._baseline is None:
            heldout = self._plan.heldout.path if self._plan.heldout is not None else None
            self._baseline = check_source(self._plan.original, heldout, self._shop.progress)
        return self._baseline

    def _heldout(self) -> HeldoutText:
        if self._text is None:
            self._text = sample_heldout(
                self._plan.original, self._shop.staging, self._plan.threads, self._shop.progress
            )
        return self._text

    def _with_deployment(self, report: GateReport, built: Built) -> GateReport:
        if not built.plan.request.gate.deployment_checks or report.verdict == "fail":
            return report
        sixteen = build_sixteen_bit(built.plan, self._shop)
        lines = deployment_lines(
            self._shop.staging.final,
            sixteen,
            built.plan.request.gate.thresholds,
            threads=built.plan.threads,
            progress=self._shop.progress,
        )
        verdict = overall(lines)
        if verdict != "fail":
            verdict = report.verdict  # a quality that was not judged does not pass because a speed did
        return replace(report, lines=(*report.lines, *lines), verdict=verdict)
