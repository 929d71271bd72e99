"""The gate's verdict, line by line: what was measured, what was demanded, yes or no. Pure functions, so that each can be seen to fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgeport.export.evaluate.generation import GenerationReport
from edgeport.export.evaluate.statistics import Quality
from edgeport.export.gate.thresholds import Thresholds

Verdict = Literal["pass", "fail", "not judged"]


@dataclass(frozen=True, slots=True)
class GateLine:
    """One check of one container. measured and threshold are what is compared (None where nothing could be measured);
    the texts are how people read them. mendable: more bits would help; a speed or a size would only get worse."""

    container: str
    name: str
    measured: float | None
    threshold: float | None
    verdict: Verdict
    measured_text: str
    threshold_text: str
    detail: str = ""
    mendable: bool = True


def quality_lines(
    container: str, found: Quality, limits: Thresholds, *, mendable: bool = True
) -> list[GateLine]:
    """The quality checks of one container. A figure that is not finite fails: NaN passes no comparison."""
    error = found.perplexity_ratio_error
    lines = [
        at_most(
            (container, "perplexity"),
            found.perplexity_ratio - 1,
            limits.perplexity_loss,
            signed_percent,
            f"{found.perplexity:.3f}, source {found.base_perplexity:.3f}, ± {error:.2%}; "
            f"KL divergence {found.mean_kl_divergence:.4f}",
        ),
        at_least(
            (container, "same top token"),
            found.same_top1,
            limits.same_top1,
            percent,
            f"± {found.same_top1_error:.2%} over {found.tokens} tokens",
        ),
        _accuracy(container, found, limits),
    ]
    if found.generation is not None:
        lines.append(_loops(container, found.generation, limits))
    return lines if mendable else [replace(line, mendable=False) for line in lines]


def _accuracy(container: str, found: Quality, limits: Thresholds) -> GateLine:
    name = (container, "token accuracy kept")
    if found.token_accuracy_ratio is None or found.base_token_accuracy is None:
        return not_judged(name, "the source predicts no token of the text")
    detail = f"{found.token_accuracy:.2%}, source {found.base_token_accuracy:.2%}"
    return at_least(name, found.token_accuracy_ratio, limits.accuracy_retention, percent, detail)


def _loops(container: str, found: GenerationReport, limits: Thresholds) -> GateLine:
    name = (container, "new endless loops")
    if found.source_loops == 1:
        return not_judged(name, f"the source itself runs into a loop on each of {found.prompts} prompts")
    allowed = max(limits.extra_loops, 1 / found.prompts)
    detail = f"of {found.prompts} prompts; {found.source_loops:.0%} loop in the source"
    return at_most(name, found.new_loops, allowed, percent, detail)


def at_most(
    where: tuple[str, str], measured: float, limit: float, text: Callable[[float], str], detail: str = ""
) -> GateLine:
    verdict: Verdict = "pass" if measured <= limit else "fail"
    return GateLine(*where, _finite(measured), limit, verdict, text(measured), f"<= {text(limit)}", detail)


def at_least(
    where: tuple[str, str], measured: float, limit: float, text: Callable[[float], str], detail: str = ""
) -> GateLine:
    verdict: Verdict = "pass" if measured >= limit else "fail"
    return GateLine(*where, _finite(measured), limit, verdict, text(measured), f">= {text(limit)}", detail)


def not_judged(where: tuple[str, str], reason: str) -> GateLine:
    return GateLine(*where, None, None, "not judged", "-", "-", reason)


def overall(lines: Sequence[GateLine]) -> Verdict:
    """fail when one line fails; not judged when none could be judged."""
    verdicts = {line.verdict for line in lines}
    if "fail" in verdicts:
        return "fail"
    return "pass" if "pass" in verdicts else "not judged"


def mendable(lines: Sequence[GateLine]) -> bool:
    """Whether more bits could mend what failed."""
    failed = [line for line in lines if line.verdict == "fail"]
    return bool(failed) and all(line.mendable for line in failed)


def percent(value: float) -> str:
    return f"{value:.1%}"


def signed_percent(value: float) -> str:
    return f"{value:+.2%}"


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def worst_quality(quality: Mapping[str, Quality]) -> Quality | None:
    """The container that lost most perplexity: what a path of the ladder shows."""
    return max(quality.values(), key=lambda item: item.perplexity_ratio, default=None)
