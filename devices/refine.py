"""The correction that a benchmark brings to a profile's kernel rates. Pure.

One run moves the rates a part of the way to what it measured, so that several come close to their middle and a bad one does
little harm. What says nothing of the device is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from edgeport.devices.kernels import DecodeObservation, Observation, PromptObservation, predicted_seconds
from edgeport.devices.profile import DeviceProfile, KernelRates
from edgeport.devices.rates import fixed_prompt_seconds, kernel_for, kernel_rates

NOISY_VARIATION = 0.05
"""Coefficient of variation above which bench calls a run noisy."""
TRUST = 0.5
"""How far one quiet run moves the rates towards itself; several runs come close to their middle."""
LARGEST_FACTOR = 3.0
"""A run this much faster or slower is of another machine, another build or another kernel."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """accepted, refused: one line for each observation."""

    profile: DeviceProfile
    accepted: tuple[str, ...]
    refused: tuple[str, ...]


def refine(profile: DeviceProfile, observations: Sequence[Observation]) -> Refinement:
    """The profile with rates moved towards what was measured; every observation that does not count says why.

    Where the profile has no rates for the engine and precision, the run gives its bandwidth, with the cost per layer of the
    engine's other precision (0 where there is none).
    """
    accepted, refused = [], []
    for item in observations:
        label = f"{item.engine}, {item.bits} bits"
        old = kernel_for(profile, item.engine, item.bits, on_gpu=profile.runs_on_gpu(item.engine))
        new = _reason_against(profile, item) or _moved(profile, old, item)
        if isinstance(new, str):
            refused.append(f"{label}: {new}")
            continue
        rest = tuple(row for row in profile.kernels if (row.engine, row.bits) != (new.engine, new.bits))
        profile = replace(profile, kernels=_sorted((*rest, new)))
        accepted.append(f"{label}: {_changes(old, new)}{_about_prompt(item.prompt)}")
    return Refinement(profile, tuple(accepted), tuple(refused))


def _reason_against(profile: DeviceProfile, item: Observation) -> str | None:
    if item.decode is None:
        return "decoding was not measured"
    if item.threads is not None and item.threads != profile.cores and not profile.runs_on_gpu(item.engine):
        return f"measured with {item.threads} threads, the profile is of {profile.cores}"
    if not _is_quiet(item.decode):
        return f"noisy ({item.decode.variation:.0%} variation, at most {NOISY_VARIATION:.0%} counts)"
    weights = item.decode.work.layers_bytes + item.decode.work.head_bytes
    if weights < (profile.last_level_cache_bytes or 0):
        return "the weights fit in the last-level cache and say nothing of memory"
    return None


def _moved(profile: DeviceProfile, old: KernelRates | None, item: Observation) -> KernelRates | str:
    """The new rates, or why there are none."""
    assert item.decode is not None
    if old is None:
        return _first(profile, item, item.decode)
    head = kernel_for(profile, item.engine, 8, on_gpu=profile.runs_on_gpu(item.engine))
    head = head if old.bits < 8 else None
    ratio = item.decode.seconds / predicted_seconds(old, head, item.decode)
    if not 1 / LARGEST_FACTOR < ratio < LARGEST_FACTOR:
        return f"{ratio:.2g} times the time the profile predicts: another machine, build or kernel"
    new = _slower(old, ratio**TRUST, item.source)
    prompt = item.prompt
    if prompt is None or not _is_quiet(prompt):
        return new
    if old.prefill_ops_per_s is None:
        return _with_prompt(new, prompt)
    factor = (prompt.seconds / predicted_seconds(old, head, prompt)) ** TRUST
    attention = old.attention_ops_per_s
    return replace(
        new,
        prefill_ops_per_s=round(old.prefill_ops_per_s / factor),
        attention_ops_per_s=None if attention is None else round(attention / factor),
    )


def _first(profile: DeviceProfile, item: Observation, decode: DecodeObservation) -> KernelRates | str:
    """Rates from a single run: all the time that no cost per layer explains is reading."""
    rows = [row for row in profile.kernels if row.engine == item.engine]
    per_layer = median([row.seconds_per_layer for row in rows]) if rows else 0.0
    per_token = median([row.seconds_per_token for row in rows]) if rows else 0.0
    reading = decode.seconds - decode.work.layers * per_layer - per_token
    if reading <= 0:
        return "faster than the cost per layer of the engine's other precision"
    kernel = KernelRates(
        item.engine, item.bits, round(decode.work.read_bytes / reading), per_layer, per_token, source=item.source
    )  # fmt: skip
    prompt = item.prompt
    return _with_prompt(kernel, prompt) if prompt is not None and _is_quiet(prompt) else kernel


def _with_prompt(kernel: KernelRates, prompt: PromptObservation) -> KernelRates:
    """One prompt gives one rate, of the matrices and of attention together."""
    work = prompt.work
    fixed = fixed_prompt_seconds(work, kernel_rates(kernel))
    operations = work.operations + work.head_operations + work.attention_operations
    return replace(
        kernel, prefill_ops_per_s=round(operations / max(prompt.seconds - fixed, prompt.seconds / 2))
    )


def _slower(kernel: KernelRates, factor: float, source: str) -> KernelRates:
    """Every time of decoding `factor` times as long."""
    cache, attention = kernel.cache_bandwidth_bytes_per_s, kernel.decode_attention_ops_per_s
    return replace(
        kernel,
        decode_bandwidth_bytes_per_s=round(kernel.decode_bandwidth_bytes_per_s / factor),
        cache_bandwidth_bytes_per_s=None if cache is None else round(cache / factor),
        decode_attention_ops_per_s=None if attention is None else round(attention / factor),
        seconds_per_layer=kernel.seconds_per_layer * factor,
        seconds_per_token=kernel.seconds_per_token * factor,
        source=source or kernel.source,
    )


def _sorted(kernels: Sequence[KernelRates]) -> tuple[KernelRates, ...]:
    return tuple(sorted(kernels, key=lambda row: (row.engine, row.bits)))


def _changes(old: KernelRates | None, new: KernelRates) -> str:
    rate = f"{new.decode_bandwidth_bytes_per_s / 1e9:.2f} GB/s"
    if old is None:
        return f"now {rate}"
    return f"{old.decode_bandwidth_bytes_per_s / 1e9:.2f} -> {rate}"


def _is_quiet(item: DecodeObservation | PromptObservation) -> bool:
    return item.variation <= NOISY_VARIATION


def _about_prompt(prompt: PromptObservation | None) -> str:
    return (
        ""
        if prompt is None or _is_quiet(prompt)
        else f"; its prompts are noisy ({prompt.variation:.0%}) and do not count"
    )
