"""Judge a staged artifact in the runtimes that ship, before it is published: baseline first, then every threshold.

How much is measured is bounded by a time estimate; what was cut short is said in the report.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.devices.probe import read_host
from edgeport.errors import EdgeportError
from edgeport.export.evaluate.run import DEFAULT_N_CTX, EvalRequest, evaluate
from edgeport.export.evaluate.statistics import Quality
from edgeport.export.gate.baseline import KEPT_PARAMETERS, Baseline, measure_baseline
from edgeport.export.gate.heldout import HeldoutText
from edgeport.export.gate.lines import GateLine, Verdict, not_judged, overall, quality_lines
from edgeport.export.gate.thresholds import Thresholds
from edgeport.export.source import SourceModel
from edgeport.lazy import missing_extra
from edgeport.manifest import read_manifest, to_json
from edgeport.progress import Progress
from edgeport.units import format_bytes, format_count, format_seconds

BUDGET_S = 240.0
FLOPS_PER_THREAD = 1.5e10
"""Matrix products in float32 on one core of a modest server; only used to bound the work."""
MOST_CHUNKS, LEAST_CHUNKS = 40, 8
SHORTEST_N_CTX = 128
PROMPTS, NEW_TOKENS = 12, 64
SMALL_PROMPTS, SMALL_NEW_TOKENS = 4, 48
SOURCE_BYTES_PER_PARAMETER = 5
"""Float32 weights in torch, and what loading and one chunk take beside them."""


@dataclass(frozen=True, slots=True)
class GateJob:
    """directory: the staged artifact with its manifest. own_schemes: formats with a scheme of their own, which the
    recipe does not reach."""

    directory: Path
    source: SourceModel
    text: HeldoutText
    limits: Thresholds
    threads: int
    own_schemes: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of the text is scored, how many prompts are continued by how many tokens, and why not more."""

    chunks: int
    n_ctx: int
    prompts: int
    new_tokens: int
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class GateReport:
    """verdict: `not judged` when the source is not sane or cannot be run; reason says so. origin: of the held-out text."""

    verdict: Verdict
    reason: str
    lines: tuple[GateLine, ...]
    quality: Mapping[str, Quality]
    baseline: Baseline | None
    origin: str
    notes: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """For the manifest; the figures of each container are in its `quality` already."""
        document: dict[str, Any] = {
            "verdict": self.verdict,
            "reason": self.reason,
            "text": self.origin,
            "baseline": to_json(self.baseline),
            "notes": list(self.notes),
            "lines": to_json(self.lines),
        }
        return document


def not_judged_at_all(reason: str, *, baseline: Baseline | None = None, origin: str = "") -> GateReport:
    return GateReport("not judged", reason, (), {}, baseline, origin)


def check_source(source: SourceModel, heldout: Path | None, progress: Progress) -> GateReport | Baseline:
    """The sane source's figures, or the report that says why nothing can be judged against it."""
    needed, available = source_bytes(source), read_host().available_bytes
    baseline = measure_baseline(source, heldout, progress)
    if isinstance(baseline, str):
        return not_judged_at_all(f"the source could not be run: {baseline}")
    if baseline.problem is not None:
        return not_judged_at_all(f"baseline not sane: {baseline.problem}", baseline=baseline)
    if needed > available:
        reason = f"running the source needs {format_bytes(needed)} of memory, {format_bytes(available)} are available"
        return not_judged_at_all(reason, baseline=baseline)
    return baseline


def judge(job: GateJob, baseline: Baseline, progress: Progress) -> GateReport:
    """Evaluate every container on the held-out text and compare with the thresholds; writes `quality` in the manifest.

    Raises RuntimeFailure when an engine dies, UsageError when the text is shorter than two chunks.
    """
    entries = [entry.format for entry in read_manifest(job.directory).containers]
    left_out = _too_slow(job.source, entries)
    judged = [name for name in entries if name not in left_out]
    extent = plan_extent(job.source, len(judged), job.threads, count_tokens(job.text.path, job.source))
    request = EvalRequest(
        artifact=job.directory,
        text=job.text.path,
        formats=tuple(judged),
        n_ctx=extent.n_ctx,
        most_chunks=extent.chunks,
        threads=job.threads,
        prompts=extent.prompts,
        new_tokens=extent.new_tokens,
    )
    quality = evaluate(request, progress=progress) if judged else {}
    lines = [not_judged((name, "quality"), reason) for name, reason in left_out.items()]
    for name, found in quality.items():
        lines += quality_lines(name, found, job.limits, mendable=name not in job.own_schemes)
    notes = (extent.note,) if extent.note else ()
    return GateReport(overall(lines), "", tuple(lines), quality, baseline, job.text.origin, notes)


def failed_to_run(error: EdgeportError, job: GateJob, baseline: Baseline) -> GateReport:
    """An engine that dies on real text is a failure of the artifact, and no amount of bits mends it."""
    line = GateLine("artifact", "runs", None, None, "fail", "no", "yes", error.message, mendable=False)
    return GateReport("fail", error.message, (line,), {}, baseline, job.text.origin)


def count_tokens(path: Path, source: SourceModel) -> int:
    """Tokens of the first megabyte of a text."""
    with missing_extra("export", purpose="tokenizing"):
        from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(source.directory / "tokenizer.json"))
    tokenizer.no_truncation()
    with path.open("rb") as stream:
        text = stream.read(1 << 20).decode("utf-8", errors="replace")
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def plan_extent(source: SourceModel, containers: int, threads: int, tokens: int) -> Extent:
    """As much as fits BUDGET_S by the estimate, between 8 and 40 chunks; shorter chunks where the text has few tokens."""
    spec = source.spec
    n_ctx = min(DEFAULT_N_CTX, spec.context_length)
    while n_ctx > SHORTEST_N_CTX and tokens < 2 * n_ctx:
        n_ctx //= 2
    runs = containers + 1
    chunk_s = runs * 2.0 * spec.parameters() * n_ctx / (FLOPS_PER_THREAD * threads)
    chunks = min(MOST_CHUNKS, max(LEAST_CHUNKS, int(BUDGET_S / 2 / chunk_s)))
    # Decoding reads every weight for each token: about 2 bytes of memory traffic per parameter, at some GB/s.
    token_s = runs * spec.parameters() * 4 / 8e9
    room = chunks == MOST_CHUNKS and PROMPTS * NEW_TOKENS * token_s < BUDGET_S / 2
    prompts, new_tokens = (PROMPTS, NEW_TOKENS) if room else (SMALL_PROMPTS, SMALL_NEW_TOKENS)
    new_tokens = min(new_tokens, n_ctx // 2)
    seconds = chunks * chunk_s + prompts * new_tokens * token_s
    note = ""
    if not room:
        note = (
            f"{chunks} chunks of {n_ctx} tokens and {prompts} prompts of {new_tokens} new tokens instead of {MOST_CHUNKS} "
            f"and {PROMPTS} of {NEW_TOKENS}: with {format_count(spec.parameters())} parameters that is already about "
            f"{format_seconds(seconds)}"
        )
    return Extent(chunks, n_ctx, prompts, new_tokens, seconds, note)


def source_bytes(source: SourceModel) -> int:
    return SOURCE_BYTES_PER_PARAMETER * source.spec.parameters()


def _too_slow(source: SourceModel, formats: Collection[str]) -> dict[str, str]:
    """The numpy reference is exact and slow; its weights are proven to be those of the other containers."""
    parameters = source.spec.parameters()
    if "safetensors" not in formats or len(formats) == 1 or parameters <= KEPT_PARAMETERS:
        return {}
    return {
        "safetensors": f"the numpy reference is too slow for {format_count(parameters)} parameters; its weights are "
        "proven to be those of the other containers"
    }
