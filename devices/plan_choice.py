"""Which devices and which rows of a plan are meant: names checked with the nearest known one, filters, order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeport.devices.catalog import HOST, load_profile, names
from edgeport.devices.plan import Wish
from edgeport.devices.plan_containers import Container, all_precisions
from edgeport.devices.plan_row import PlanRow
from edgeport.devices.profile import FORMATS, KINDS, DeviceProfile
from edgeport.devices.profile_keys import nearest
from edgeport.devices.tiers import TIER_NAMES, tier_rank
from edgeport.errors import UsageError

KV_BITS = (4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Filter:
    """only_fitting: no row that needs changes. sort: one of KEYS, None for the order of the devices."""

    sort: str | None = None
    only_fitting: bool = False
    min_tokens_per_s: float | None = None


KEYS: Mapping[str, Callable[[PlanRow], tuple[float, str]]] = {
    "memory": lambda row: (row.required_bytes * max(1, row.gpus), row.device),
    "decode": lambda row: (-(row.speed.decode_tokens_per_s if row.speed else 0.0), row.device),
    "prefill": lambda row: (-((row.speed.prefill_tokens_per_s or 0.0) if row.speed else 0.0), row.device),
    "size": lambda row: (row.file_bytes, row.device),
    "name": lambda row: (0.0, row.device),
}


def choose_rows(rows: Sequence[PlanRow], wanted: Filter) -> tuple[PlanRow, ...]:
    """The rows that pass, sorted; equal rows keep their order."""
    chosen = [
        row
        for row in rows
        if (row.fits or not wanted.only_fitting)
        and (
            wanted.min_tokens_per_s is None
            or (row.speed is not None and row.speed.decode_tokens_per_s >= wanted.min_tokens_per_s)
        )
    ]
    return tuple(chosen if wanted.sort is None else sorted(chosen, key=KEYS[wanted.sort]))


def choose_profiles(
    asked: Sequence[str], *, tier: str | None = None, kind: str | None = None
) -> tuple[DeviceProfile, ...]:
    """The named devices, or all but the probed host, by tier and memory. Raises UsageError for unknown names and for nothing."""
    _require(tier, TIER_NAMES, "tier")
    _require(kind, KINDS, "kind")
    found = [load_profile(name) for name in dict.fromkeys(asked)]
    if not asked:
        found = [load_profile(name) for name in names() if name != HOST]
        found.sort(key=lambda profile: (tier_rank(profile.tier), _memory(profile), profile.name))
    chosen = [item for item in found if tier in (None, item.tier) and kind in (None, item.kind)]
    if not chosen:
        raise UsageError(
            f"no device of tier {tier or 'any'} and kind {kind or 'any'}", hint="edgeport devices lists them"
        )
    return tuple(chosen)


def make_wish(
    *,
    formats: Sequence[str],
    precisions: Sequence[str],
    workload: tuple[int | None, int, int | None],
    containers: Sequence[Container],
    every_row: bool,
) -> Wish:
    """workload: context length, batch, KV bits. Raises UsageError for unknown names, with the nearest, and impossible numbers."""
    for name in formats:
        _require(name, FORMATS, "format")
    known = all_precisions()
    for name in precisions:
        _require(name, known, "precision")
    context, batch, kv_bits = workload
    if (context is not None and context < 1) or batch < 1:
        raise UsageError(f"context {context}, batch {batch}", hint="both must be at least 1")
    if kv_bits is not None and kv_bits not in KV_BITS:
        raise UsageError(f"no KV cache has {kv_bits} bits", hint=f"bits are {', '.join(map(str, KV_BITS))}")
    return Wish(context, batch, kv_bits, tuple(formats), tuple(precisions), tuple(containers), every_row)


def _memory(profile: DeviceProfile) -> int:
    """Where the device's first engine puts a model."""
    return profile.available_bytes(profile.runs_on_gpu(profile.engines[0]))


def _require(name: str | None, allowed: Sequence[str], what: str) -> None:
    if name is not None and name not in allowed:
        raise UsageError(
            f"unknown {what} '{name}'{nearest(name, allowed)}", hint=f"known: {', '.join(allowed)}"
        )
