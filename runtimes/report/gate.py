"""The gate's lines and the ladder's steps on the report page, as the manifest tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeport.runtimes.bench.compare import dig
from edgeport.runtimes.report.markup import Markup, element, join
from edgeport.runtimes.report.tables import table

_LINE = ("container", "name", "measured_text", "threshold_text", "verdict", "detail")
_LINE_TITLES = ("container", "check", "measured", "allowed", "verdict", "detail")
_STEP = (
    "rung",
    "recipe",
    "solver",
    "bits_per_weight",
    "perplexity_ratio",
    "mean_kl_divergence",
    "verdict",
    "reason",
)
_STEP_TITLES = ("rung", "recipe", "solver", "bits", "perplexity to source", "KL divergence", "verdict", "why")


def gate_section(gate: Mapping[str, Any]) -> Markup:
    """Verdict, lines and path; one sentence when nothing was judged."""
    verdict = gate.get("verdict")
    if verdict is None:
        return element("p", "Not judged.", attributes={"class": "quiet"})
    told = [f"Verdict: {verdict}."]
    if gate.get("rung"):
        told.append(f"Published from the rung: {gate['rung']}.")
    if gate.get("reason"):
        told.append(f"{gate['reason']}.")
    parts = [element("p", " ".join(told))]
    for name, titles, keys, found in (
        ("Checks of the gate", _LINE_TITLES, _LINE, dig(gate, "lines")),
        ("Steps of the ladder", _STEP_TITLES, _STEP, dig(gate, "ladder")),
    ):
        if isinstance(found, list) and found:
            cells = [[_text(item.get(key)) for key in keys] for item in found]
            parts.append(table(titles, cells, name=name, style="prose"))
    return join(parts, "\n")


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
