"""What the passes of a soak say: does memory grow, do tokens get slower, do answers change. Pure.

Growth is the median of the slopes between all pairs of moments (Theil and Sen), with Sen's interval: one step, as of an allocator
that takes another arena, leaves it at zero, a leak does not. P. K. Sen, "Estimates of the regression coefficient based on Kendall's
tau", 1968. Drift is the last third over the first third of the passes after warm-up; its interval resamples the passes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgeport.runtimes.bench.soak_loop import SoakPass
from edgeport.runtimes.bench.statistics import mean, median, percentiles
from edgeport.units import format_bytes

WARM_UP_SHARE = 0.2
FEWEST_PASSES = 18
"""After warm-up: six moments of memory, and six passes in each third."""
MOST_MOMENTS = 48
"""Memory is averaged over that many stretches of time before slopes are taken: neighbours say the same."""
NEGLIGIBLE_BYTES = 1 << 20
"""Growth over the whole soak below this is an allocator's noise, whatever it would be in an hour."""
BOOTSTRAPS = 1000
MOST_DRIFT_PASSES = 300
NORMAL_975 = 1.959964
SECONDS_PER_HOUR = 3600.0

SoakVerdict = Literal["passed", "failed", "too short"]


@dataclass(frozen=True, slots=True)
class SoakLimits:
    """growth_bytes_per_hour: of resident or anonymous memory. drift: last third over first third, 1.2 is a fifth slower."""

    growth_bytes_per_hour: float = float(64 << 20)
    drift: float = 1.2


@dataclass(frozen=True, slots=True)
class Growth:
    """Bytes per hour with a 95 % interval; first and last: means of the first and last tenth after warm-up."""

    bytes_per_hour: float
    low_bytes_per_hour: float
    high_bytes_per_hour: float
    first_bytes: float
    last_bytes: float


@dataclass(frozen=True, slots=True)
class Drift:
    """Milliseconds per token in the first and the last third, and their ratio with a 95 % interval."""

    first_ms: float
    last_ms: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class WrongOutput:
    """The pass' tokens differ from those of the first pass over the same prompt, from this index on."""

    pass_index: int
    prompt: int
    first_different_token: int


@dataclass(frozen=True, slots=True)
class SoakJudgement:
    """violations: one sentence each. None where the soak was too short to say."""

    verdict: SoakVerdict
    violations: tuple[str, ...]
    resident: Growth | None
    anonymous: Growth | None
    drift_p50: Drift | None
    drift_p95: Drift | None
    wrong_outputs: tuple[WrongOutput, ...]
    passes_with_infinite_logits: int


def judge(passes: Sequence[SoakPass], limits: SoakLimits, *, fault: str | None = None) -> SoakJudgement:
    """fault: why the process ended, which is a violation of its own."""
    wrong = wrong_outputs(passes)
    infinite = sum(not item.is_finite for item in passes)
    violations = [] if fault is None else [f"the engine failed: {fault}"]
    if wrong:
        first = wrong[0]
        violations.append(
            f"{len(wrong)} of {len(passes)} answers differ from the first to the same prompt; the first in pass "
            f"{first.pass_index} from token {first.first_different_token} on"
        )
    if infinite:
        violations.append(f"{infinite} of {len(passes)} passes had logits that are not finite")
    steady = after_warm_up(passes)
    resident = anonymous = p50 = p95 = None
    if len(steady) >= FEWEST_PASSES:
        resident, anonymous = _memory(steady, "resident_bytes"), _memory(steady, "anonymous_bytes")
        p50, p95 = drift(steady, "p50_ms"), drift(steady, "p95_ms")
        violations += _growing("resident", resident, limits) + _growing("anonymous", anonymous, limits)
        violations += _slower("p50", p50, limits) + _slower("p95", p95, limits)
    verdict: SoakVerdict = "failed" if violations else "passed" if resident or p50 else "too short"
    return SoakJudgement(verdict, tuple(violations), resident, anonymous, p50, p95, wrong, infinite)


def after_warm_up(passes: Sequence[SoakPass]) -> Sequence[SoakPass]:
    """Without the first fifth of them, and never with a prompt's first pass."""
    prompts = 1 + max((item.prompt for item in passes), default=0)
    return passes[max(prompts, round(WARM_UP_SHARE * len(passes))) :]


def wrong_outputs(passes: Sequence[SoakPass]) -> tuple[WrongOutput, ...]:
    expected: dict[int, tuple[int, ...]] = {}
    found = []
    for index, item in enumerate(passes):
        first = expected.setdefault(item.prompt, item.tokens)
        if item.tokens != first:
            same = next(
                (at for at, (a, b) in enumerate(zip(first, item.tokens, strict=False)) if a != b),
                min(len(first), len(item.tokens)),
            )
            found.append(WrongOutput(index, item.prompt, same))
    return tuple(found)


def growth(seconds: Sequence[float], sizes: Sequence[float]) -> Growth:
    """The slope of `sizes` (bytes) over `seconds`; at least six moments."""
    at, size = _stretches(seconds, sizes)
    slopes = sorted(
        (size[later] - size[earlier]) / (at[later] - at[earlier])
        for earlier in range(len(at))
        for later in range(earlier + 1, len(at))
        if at[later] > at[earlier]
    )
    count = len(at)
    half_width = NORMAL_975 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18) / 2
    low = max(0, math.floor(len(slopes) / 2 - half_width))
    high = min(len(slopes) - 1, math.ceil(len(slopes) / 2 + half_width))
    tenth = max(1, len(size) // 10)
    return Growth(
        median(slopes) * SECONDS_PER_HOUR,
        slopes[low] * SECONDS_PER_HOUR,
        slopes[high] * SECONDS_PER_HOUR,
        mean(size[:tenth]),
        mean(size[-tenth:]),
    )


def drift(passes: Sequence[SoakPass], name: Literal["p50_ms", "p95_ms"]) -> Drift:
    """The median over the passes of each third, of one of their own percentiles."""
    third = len(passes) // 3
    first, last = (
        [float(getattr(item, name)) for item in _spread(part)] for part in (passes[:third], passes[-third:])
    )
    generator = random.Random(0)
    ratios = [
        median(generator.choices(last, k=len(last))) / median(generator.choices(first, k=len(first)))
        for _ in range(BOOTSTRAPS)
    ]
    low, high = percentiles(ratios, (2.5, 97.5))
    return Drift(median(first), median(last), median(last) / median(first), low, high)


def _memory(passes: Sequence[SoakPass], name: str) -> Growth | None:
    known = [(item.seconds, getattr(item, name)) for item in passes if getattr(item, name) is not None]
    if len(known) < FEWEST_PASSES:
        return None
    return growth([at for at, _ in known], [float(size) for _, size in known])


def _stretches(seconds: Sequence[float], sizes: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means over up to MOST_MOMENTS stretches of equally many moments; a turn of all prompts is in each."""
    count = min(MOST_MOMENTS, len(seconds) // 3)
    borders = [round(index * len(seconds) / count) for index in range(count + 1)]
    pairs = list(zip(borders, borders[1:], strict=False))
    return [mean(seconds[a:b]) for a, b in pairs], [mean(sizes[a:b]) for a, b in pairs]


def _spread(passes: Sequence[SoakPass]) -> Sequence[SoakPass]:
    step = max(1, len(passes) // MOST_DRIFT_PASSES)
    return passes[::step]


def _growing(name: str, found: Growth | None, limits: SoakLimits) -> list[str]:
    """Only what is certain: the lower end of the interval is above the limit."""
    if found is None or found.last_bytes - found.first_bytes < NEGLIGIBLE_BYTES:
        return []
    if found.low_bytes_per_hour <= limits.growth_bytes_per_hour:
        return []
    allowed = format_bytes(limits.growth_bytes_per_hour)
    return [
        f"{name} memory grows by {format_bytes(found.bytes_per_hour)} an hour "
        f"({format_bytes(found.low_bytes_per_hour)} to {format_bytes(found.high_bytes_per_hour)}), allowed are {allowed}"
    ]


def _slower(name: str, found: Drift | None, limits: SoakLimits) -> list[str]:
    if found is None or found.low <= limits.drift:
        return []
    return [
        f"{name} of a token went from {found.first_ms:.3g} to {found.last_ms:.3g} ms: {found.ratio:.2f} times "
        f"({found.low:.2f} to {found.high:.2f}), allowed are {limits.drift:g}"
    ]
