"""Kernel rates from measurements: a fit over several models. Pure; `refine` corrects rates by one more run.

    seconds per step = weights / bandwidth + KV cache / cache bandwidth + products of attention / their rate
                       + layers * seconds per layer + seconds per token

is linear in the unknowns, so that a few models of different width and depth separate them; the same holds for prompts with
the products of the matrices and of attention. All observations count in relative terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeport.devices.least_squares import solve_nonnegative
from edgeport.devices.profile import KernelRates
from edgeport.devices.rates import decode_seconds, fixed_prompt_seconds, kernel_rates, prefill_seconds
from edgeport.devices.work import DecodeWork, PromptWork
from edgeport.errors import EdgeportError, UsageError

LARGEST_RESIDUAL = 0.3
"""A model whose time per token differs more than this from the fit was disturbed, or is of another kind."""
LARGEST_PROMPT_RESIDUAL = 0.5
"""Matrix products depend on the shape more than reading does."""
SMALLEST_SHARE = 0.05
"""Of the time of any model: what costs less was not what was measured."""


@dataclass(frozen=True, slots=True)
class DecodeObservation:
    work: DecodeWork
    seconds: float
    variation: float = 0.0


@dataclass(frozen=True, slots=True)
class PromptObservation:
    work: PromptWork
    seconds: float
    variation: float = 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """One run of one engine. bits: of the decoder's matrices. threads: None where nobody noted them. source: what was run."""

    engine: str
    bits: int
    decode: DecodeObservation | None = None
    prompt: PromptObservation | None = None
    threads: int | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Fit:
    """residuals: the largest relative difference between a measured time and the fitted one, of decoding and of prompts."""

    kernel: KernelRates
    decode_residual: float
    prompt_residual: float | None


def fit_kernel(observations: Sequence[Observation], *, source: str = "") -> Fit:
    """The rates of one engine at one precision. The models' heads must have the same precision as their matrices.

    Raises UsageError for observations that do not separate the unknowns, EdgeportError for those that contradict each other.
    """
    engine, bits = _common(observations)
    decode = [item.decode for item in observations if item.decode is not None]
    prompts = [item.prompt for item in observations if item.prompt is not None]
    kernel = _fit_decode(KernelRates(engine, bits, 1, source=source), decode)
    if prompts:
        kernel = _fit_prompts(kernel, prompts)
    decode_residual = _checked(kernel, decode, LARGEST_RESIDUAL, "tokens")
    prompt_residual = _checked(kernel, prompts, LARGEST_PROMPT_RESIDUAL, "prompts") if prompts else None
    return Fit(kernel, decode_residual, prompt_residual)


def _common(observations: Sequence[Observation]) -> tuple[str, int]:
    kinds = {(item.engine, item.bits) for item in observations}
    if len(kinds) != 1:
        named = ", ".join(f"{engine} with {bits} bits" for engine, bits in sorted(kinds)) or "nothing"
        raise UsageError(
            f"one engine and one precision can be fitted at a time, not {named}",
            hint="fit each for itself",
        )
    return next(iter(kinds))


def _fit_decode(kernel: KernelRates, items: Sequence[DecodeObservation]) -> KernelRates:
    """A cache that was never deep has no rate; one that costs nothing measurable has none either."""
    rows, solution = _solve_decode(kernel, items)
    per_byte, per_layer, per_token = solution[:3]
    if max(per_byte * row[0] / item.seconds for row, item in zip(rows, items, strict=True)) < SMALLEST_SHARE:
        raise EdgeportError(
            f"{kernel.engine} with {kernel.bits}-bit weights takes no longer for more weights: memory was not what was measured",
            hint="measure larger models, on an otherwise idle machine",
        )
    cache, attention = solution[3:]
    return replace(
        kernel,
        decode_bandwidth_bytes_per_s=round(1 / per_byte),
        seconds_per_layer=per_layer,
        seconds_per_token=per_token,
        cache_bandwidth_bytes_per_s=round(1 / cache) if cache else None,
        decode_attention_ops_per_s=round(1 / attention) if attention else None,
    )


def _solve_decode(
    kernel: KernelRates, items: Sequence[DecodeObservation]
) -> tuple[list[list[float]], list[float]]:
    """Rows, and seconds per byte, layer, token, byte of cache and product of attention. Models that all share a key/value head
    among as many query heads do not tell the last two apart: all of it then counts as bytes."""
    seconds = [item.seconds for item in items]
    rows = [
        [item.work.layers_bytes + item.work.head_bytes, float(item.work.layers), 1.0, item.work.cache_bytes]
        for item in items
    ]
    if not any(row[3] for row in rows):
        return rows, [*_solve([row[:3] for row in rows], seconds, kernel, "decoding"), 0.0, 0.0]
    attending = [[*row, item.work.attention_operations] for row, item in zip(rows, items, strict=True)]
    shares = {round(row[4] / row[3], 6) for row in attending if row[3]}
    if len(shares) > 1 and len(items) > len(attending[0]):
        return attending, _solve(attending, seconds, kernel, "decoding")
    return rows, [*_solve(rows, seconds, kernel, "decoding"), 0.0]


def _fit_prompts(kernel: KernelRates, items: Sequence[PromptObservation]) -> KernelRates:
    """The fixed costs are those of decoding, once per chunk."""
    known = kernel_rates(kernel)
    rows, seconds = [], []
    for item in items:
        fixed = fixed_prompt_seconds(item.work, known)
        rows.append([item.work.operations + item.work.head_operations, item.work.attention_operations])
        # Layers wait less for each other in a prompt: never let the fixed part explain all of the time.
        seconds.append(max(item.seconds - fixed, item.seconds / 2))
    per_operation, per_attention = _solve(rows, seconds, kernel, "prompts")
    if max(per_operation * row[0] / each for row, each in zip(rows, seconds, strict=True)) < SMALLEST_SHARE:
        raise EdgeportError(
            f"{kernel.engine} with {kernel.bits}-bit weights takes no longer for more arithmetic",
            hint="measure longer prompts, on an otherwise idle machine",
        )
    return replace(
        kernel,
        prefill_ops_per_s=round(1 / per_operation),
        attention_ops_per_s=round(1 / per_attention) if per_attention else None,
    )


def _solve(
    rows: Sequence[Sequence[float]], seconds: Sequence[float], kernel: KernelRates, what: str
) -> list[float]:
    if not rows or min(seconds) <= 0:
        raise UsageError(
            f"no times of {what} to fit {kernel.engine} with {kernel.bits}-bit weights to",
            hint="every time must be above zero",
        )
    try:
        return solve_nonnegative(rows, seconds)
    except ValueError as error:
        raise UsageError(
            f"{len(rows)} runs of {kernel.engine} with {kernel.bits}-bit weights do not tell the costs of {what} apart: {error}",
            hint="measure models of different sizes with different numbers of layers, at two depths",
        ) from error


def _checked(
    kernel: KernelRates, items: Sequence[DecodeObservation | PromptObservation], limit: float, what: str
) -> float:
    """The largest relative difference, when it is within `limit`."""
    residual = max(abs(predicted_seconds(kernel, None, item) / item.seconds - 1) for item in items)
    if residual > limit:
        raise EdgeportError(
            f"the times of {what} of {kernel.engine} with {kernel.bits}-bit weights contradict each other: "
            f"one differs by {residual:.0%} from the fit, at most {limit:.0%} counts",
            hint="something else used the machine; measure again when it is idle",
        )
    return residual


def predicted_seconds(
    kernel: KernelRates, head: KernelRates | None, item: DecodeObservation | PromptObservation
) -> float:
    """The time the rates give, `head` those of the kernels of the output head; the measured one where they say nothing of prompts."""
    rates = kernel_rates(kernel, head)
    if isinstance(item, DecodeObservation):
        return decode_seconds(item.work, rates)
    return prefill_seconds(item.work, rates) or item.seconds
