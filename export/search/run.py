"""Search: measure every candidate that the limits allow, then let the gate judge the best until one passes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeport.errors import DoesNotFit, GateFailure, UsageError
from edgeport.export.build import Workshop, build, rung_key
from edgeport.export.containers import entry_point
from edgeport.export.evaluate.chunks import chunk_text
from edgeport.export.evaluate.models import Yardstick
from edgeport.export.gate.heldout import HeldoutText
from edgeport.export.gate.run import count_tokens, plan_extent
from edgeport.export.pipeline import ExportResult, run
from edgeport.export.request import ExportPlan, ExportRequest, make_plan
from edgeport.export.search.candidates import Candidate, Limits, SearchSpace, make_candidates
from edgeport.export.search.choose import Measured, front, ranking
from edgeport.export.staging import Staging
from edgeport.manifest import to_json
from edgeport.progress import Progress

Tell = Callable[[str], None]
RESULT_NAME = "search.json"
ALL_CHUNKS = 1 << 30


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """base: model, device, formats, budget of memory and gate of every candidate; its `out` is the search's folder.

    The folder keeps recipes, prepared models and what was measured, so that a killed or widened search goes on.
    """

    base: ExportRequest
    space: SearchSpace
    limits: Limits
    prefer: str = "quality"
    export: bool = True


@dataclass(frozen=True, slots=True)
class SearchResult:
    """front: names on the Pareto front of size and divergence, smallest first. chosen: what was exported, or would be.
    rejected: what the gate said no to on the way, with its reason."""

    items: tuple[Measured, ...]
    front: tuple[str, ...]
    chosen: str
    rejected: dict[str, str]
    directory: Path
    exported: ExportResult | None = None

    def to_document(self) -> dict[str, Any]:
        return {
            "candidates": [asdict(item) for item in self.items],
            "front": list(self.front),
            "chosen": self.chosen,
            "rejected": self.rejected,
            "artifact": str(self.directory / "artifact") if self.exported is not None else None,
        }


def plan_search(request: SearchRequest) -> list[Candidate]:
    """All candidates with their plans. Raises DoesNotFit when the limits refuse every one."""
    base = replace(
        request.base,
        out=request.base.out / "artifact",
        force=True,
        recovery=replace(request.base.recovery, store=request.base.out / "store"),
    )
    found = make_candidates(request.space, base, request.limits, request.base.out / "recipes")
    if all(item.refused for item in found):
        told = "; ".join(f"{item.name}: {item.refused}" for item in found[-3:])
        raise DoesNotFit(
            f"none of {len(found)} candidates is within the limits: {told}",
            hint="prune more (--ffn 0.5), take fewer bits (--recipes int4), or allow more",
        )
    return found


def search(
    request: SearchRequest, candidates: Sequence[Candidate], *, progress: Progress, tell: Tell
) -> SearchResult:
    """Measure, rank, export the best that the gate passes.

    Candidates are ranked on the first half of the gate's held-out text, which nothing was calibrated or trained on; the gate
    judges the winner on all of it. Raises GateFailure when the gate passes none.
    """
    bench = _Bench(request, candidates, progress)
    items = []
    for candidate in candidates:
        item = bench.measure(candidate)
        items.append(item)
        tell(_line(item))
    limits = request.base.gate.thresholds
    ranked = ranking(items, prefer=request.prefer, most_loss=limits.perplexity_loss)
    if not ranked:
        raise GateFailure(
            f"no candidate within the limits loses at most {100 * limits.perplexity_loss:g} % of perplexity",
            hint="allow more with --max-loss, recover longer with --minutes, or allow more memory",
        )
    names = tuple(item.name for item in front(items))
    found = SearchResult(tuple(items), names, ranked[0].name, {}, request.base.out)
    if request.export:
        found = _export_best(ranked, {item.name: item for item in candidates}, found, (progress, tell))
    _write(found)
    return found


def _export_best(
    ranked: Sequence[Measured],
    candidates: dict[str, Candidate],
    found: SearchResult,
    voice: tuple[Progress, Tell],
) -> SearchResult:
    progress, tell = voice
    rejected: dict[str, str] = {}
    for item in ranked:
        plan = candidates[item.name].plan
        assert plan is not None
        gate = replace(plan.request.gate, enabled=True, ladder=False)
        try:
            result = run(make_plan(replace(plan.request, gate=gate)), progress=progress, tell=tell)
        except GateFailure as error:
            rejected[item.name] = error.message.splitlines()[0]
            continue
        return replace(found, chosen=item.name, rejected=rejected, exported=result)
    told = "; ".join(f"{name}: {reason}" for name, reason in rejected.items())
    raise GateFailure(
        f"the gate passes none of {len(ranked)} candidates: {told}",
        hint="allow more with --max-loss, or recover longer with --minutes",
    )


class _Bench:
    """Measures candidates in one engine of the device; what was measured once is read again."""

    def __init__(self, request: SearchRequest, candidates: Sequence[Candidate], progress: Progress) -> None:
        self._progress, self._folder = progress, request.base.out
        plan = next(item.plan for item in candidates if item.plan is not None and not item.refused)
        if plan.heldout is None:
            raise UsageError(
                "searching needs held-out text, and there is none beside the model",
                hint="give a UTF-8 file the model was not trained on with --heldout",
            )
        self._heldout: HeldoutText = plan.heldout
        self._format = plan.portable[0]
        self._yardstick: Yardstick | None = None

    def measure(self, candidate: Candidate) -> Measured:
        plan = candidate.plan
        if plan is None:
            return Measured(candidate.name, 0, 0, 0, 0.0, refused=candidate.refused)
        known = Measured(
            name=candidate.name,
            parameters=plan.facts.parameters,
            size_bytes=candidate.size_bytes,
            memory_bytes=candidate.memory_bytes,
            decode_tokens_per_s=candidate.decode_tokens_per_s,
            refused=candidate.refused,
        )
        if candidate.refused:
            return known
        narrow = make_plan(replace(plan.request, formats=(self._format,), verify=False))
        return replace(known, **self._remembered(candidate.name, narrow))

    def _remembered(self, name: str, plan: ExportPlan) -> dict[str, Any]:
        key = {**rung_key(plan), "heldout": self._heldout.sha256()}
        digest = hashlib.sha256(json.dumps(to_json(key), sort_keys=True).encode()).hexdigest()
        path = self._folder / "measured" / f"{name}.json"
        if path.is_file():
            known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if known.pop("key") == digest:
                return known
        figures = self._quality(plan)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**figures, "key": digest}), encoding="utf-8")
        part.replace(path)
        return figures

    def _quality(self, plan: ExportPlan) -> dict[str, Any]:
        work = self._folder / "work" / plan.recipe.name
        work.parent.mkdir(parents=True, exist_ok=True)
        with Staging(work, resume=True) as staging:
            build(plan, Workshop(staging, self._progress))
            entry = entry_point(self._format, self._format, staging.final)
            with self._progress.stage(f"measure {plan.recipe.name}"):
                quality = self._against(plan).quality(self._format, entry)
            staging.discard()
        return {
            "perplexity_ratio": quality.perplexity_ratio,
            "mean_kl_divergence": quality.mean_kl_divergence,
            "same_top1": quality.same_top1,
            "runtime": quality.runtime,
        }

    def _against(self, plan: ExportPlan) -> Yardstick:
        if self._yardstick is None:
            source, text = plan.original, self._heldout.path
            extent = plan_extent(source, 1, plan.threads, count_tokens(text, source))
            whole = chunk_text(text, source.directory, n_ctx=extent.n_ctx, most_chunks=ALL_CHUNKS)
            count = min(max(len(whole.chunks) // 2, 1), extent.chunks)
            half = replace(whole, chunks=whole.chunks[:count])
            folder = self._folder / "work"
            folder.mkdir(parents=True, exist_ok=True)
            with self._progress.stage("run the source"):
                self._yardstick = Yardstick(source, half, folder, plan.threads)
        return self._yardstick


def _line(item: Measured) -> str:
    if item.mean_kl_divergence is None or item.perplexity_ratio is None:
        return f"{item.name}: left out, {item.refused}"
    return f"{item.name}: perplexity {item.perplexity_ratio - 1:+.2%}, KL {item.mean_kl_divergence:.4f}"


def _write(result: SearchResult) -> None:
    part = result.directory / f"{RESULT_NAME}.part"
    part.write_text(json.dumps(result.to_document(), indent=2) + "\n", encoding="utf-8")
    part.replace(result.directory / RESULT_NAME)
