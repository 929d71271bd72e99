"""What pruning did, for people and for provenance.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeport.export.prune.kept import Kept
from edgeport.export.prune.plan import PrunePlan

STAGE = "prune"


@dataclass(frozen=True, slots=True)
class PruneReport:
    """kept: per method what stayed. perplexity_before, perplexity_after: float, on `held_windows` windows of the calibration
    text that nothing was chosen on; None where the trimmed vocabulary cannot write any of them. seconds: of this call."""

    parameters_before: int
    parameters_after: int
    perplexity_before: float | None
    perplexity_after: float | None
    held_windows: int
    held_n_ctx: int
    calibration: str
    kept: Mapping[str, Any]
    seconds: float

    def to_document(self) -> dict[str, Any]:
        """Plain values. Without the seconds, which differ from run to run: the folder's bytes do not."""
        return {
            "parameters_before": self.parameters_before,
            "parameters_after": self.parameters_after,
            "perplexity_before": self.perplexity_before,
            "perplexity_after": self.perplexity_after,
            "held_windows": self.held_windows,
            "held_n_ctx": self.held_n_ctx,
            "calibration": self.calibration,
            "kept": dict(self.kept),
        }


def kept_summary(kept: Kept, plan: PrunePlan) -> dict[str, Any]:
    """Layers and heads by number; of channels and tokens, which are many, how many stay."""
    found: dict[str, Any] = {}
    before = plan.source.spec
    if len(kept.layers) < before.layers:
        found["layers"] = list(kept.layers)
    if kept.query_heads:
        found["heads"] = {str(layer): heads.tolist() for layer, heads in kept.query_heads.items()}
        found["kv_heads"] = {str(layer): heads.tolist() for layer, heads in kept.kv_heads.items()}
    if kept.ffn:
        widths = [len(kept.ffn[layer]) for layer in kept.layers]
        each = str(widths[0]) if len(set(widths)) == 1 else ", ".join(map(str, widths))
        found["ffn"] = f"{each} of {before.intermediate_size}"
    if kept.hidden is not None:
        found["embedding"] = f"{len(kept.hidden)} of {before.hidden_size}"
    if kept.tokens is not None:
        found["vocabulary"] = f"{len(kept.tokens)} of {before.vocab_size}"
    return found


def provenance(plan: PrunePlan, report: PruneReport, earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """provenance.json; `earlier`: that of the source, where an earlier stage wrote one."""
    document = {
        "stage": STAGE,
        "source_name": plan.source.name,
        "source_fingerprint": plan.source.fingerprint(),
        "plan": plan.to_document(),
        "report": report.to_document(),
    }
    return document | ({"source": dict(earlier)} if earlier is not None else {})
