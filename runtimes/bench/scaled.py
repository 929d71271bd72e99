"""What a bench under emulation says of the device: which figures are really the device's, and the rates scaled to it.

A rate measured here is multiplied by the ratio of what is predicted for the device and for this machine with the cores in use:
decoding by their bandwidths, prompts by their arithmetic rates. What the prediction gets wrong of the engine itself is in both
and cancels out; the interval is the device's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeport.devices.bandwidth import MemoryBandwidth
from edgeport.devices.memory import engine_for
from edgeport.devices.probe import host_profile, read_host
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.shape import shape_of
from edgeport.devices.speed import SpeedEstimate, estimate_speed
from edgeport.devices.work import nominal_bits
from edgeport.manifest import Manifest, base_format
from edgeport.runtimes.bench.speed import Rate, Speed
from edgeport.runtimes.emulate import Emulation

REAL, SCALED, HERE = "real", "scaled", "of this machine"
FIGURES = (
    ("fits", REAL),
    ("memory", REAL),
    ("decode", SCALED),
    ("prefill", SCALED),
    ("time to first token, load, latencies", HERE),
)


@dataclass(frozen=True, slots=True)
class FigureOrigin:
    """origin: `real` (limited as on the device), `scaled` or `of this machine`."""

    figure: str
    origin: str


@dataclass(frozen=True, slots=True)
class ScaledRate:
    """Tokens per second: measured here, and the device's with its interval."""

    test: str
    measured_tokens_per_s: float
    tokens_per_s: float
    low_tokens_per_s: float
    high_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class ScaledSpeed:
    """One container. None: not measured, or nothing says how fast one of the two machines is. basis: what it rests on."""

    format: str
    decode: ScaledRate | None
    prefill: ScaledRate | None
    basis: str


@dataclass(frozen=True, slots=True)
class EmulationReport:
    emulation: Emulation
    figures: tuple[FigureOrigin, ...]
    containers: tuple[ScaledSpeed, ...]


def emulation_report(
    emulation: Emulation,
    profile: DeviceProfile | None,
    manifest: Manifest,
    speeds: Sequence[Speed],
    bandwidth_bytes_per_s: float | None,
) -> EmulationReport:
    """profile: the device, None when only memory was limited: nothing is scaled then."""
    figures = tuple(FigureOrigin(*figure) for figure in FIGURES)
    if profile is None:
        figures = tuple(replace(item, origin=HERE) if item.origin == SCALED else item for item in figures)
        return EmulationReport(emulation, figures, ())
    here = _this_machine(len(emulation.cpus), bandwidth_bytes_per_s)
    return EmulationReport(
        emulation, figures, tuple(_scaled(speed, manifest, profile, here) for speed in speeds)
    )


def _this_machine(cores: int, bandwidth_bytes_per_s: float | None) -> DeviceProfile | None:
    """The host as a profile, cut to the cores in use; None when its bandwidth could not be measured."""
    if bandwidth_bytes_per_s is None:
        return None
    facts = read_host()
    profile = host_profile(facts, MemoryBandwidth(round(bandwidth_bytes_per_s), cores, (), 0))
    rate = profile.int8_ops_per_s
    return replace(profile, cores=cores, int8_ops_per_s=rate and round(rate * cores / profile.cores))


def _scaled(
    speed: Speed, manifest: Manifest, device: DeviceProfile, here: DeviceProfile | None
) -> ScaledSpeed:
    if here is None:
        return ScaledSpeed(
            speed.format, None, None, "the memory bandwidth of this machine could not be measured"
        )
    engine = engine_for(device, base_format(speed.format))
    if device.runs_on_gpu(engine):
        return ScaledSpeed(
            speed.format, None, None, f"{device.name} runs {engine} on its GPU: nothing to scale from"
        )
    there, ours = (_predict(speed, manifest, profile) for profile in (device, here))
    decode = (there.decode_tokens_per_s, there.decode_low_tokens_per_s, there.decode_high_tokens_per_s)
    prefill = (there.prefill_tokens_per_s, there.prefill_low_tokens_per_s, there.prefill_high_tokens_per_s)
    basis = f"{device.name}: {there.basis}; here: {ours.basis}"
    measured = speed.decode
    if speed.roofline is not None and speed.roofline.verdict == "cache-resident":
        basis += "; decoding is not scaled, as it read this machine's cache and not its memory"
        measured = None
    return ScaledSpeed(
        speed.format,
        _rate(measured, ours.decode_tokens_per_s, decode),
        _rate(speed.prefill, ours.prefill_tokens_per_s, prefill),
        basis,
    )


def _predict(speed: Speed, manifest: Manifest, profile: DeviceProfile) -> SpeedEstimate:
    size = manifest.container(speed.format).size_bytes
    shape = shape_of(manifest.model)
    engine = engine_for(profile, base_format(speed.format))
    return estimate_speed(
        shape, size, nominal_bits(shape, size), profile, engine,
        depth=speed.n_depth, prompt_tokens=max(1, speed.n_prompt),
    )  # fmt: skip


def _rate(
    measured: Rate | None, here: float | None, there: tuple[float | None, float | None, float | None]
) -> ScaledRate | None:
    """`there`: expected, low and high on the device."""
    if measured is None or not here or None in there:
        return None
    rate = measured.tokens_per_s
    expected, low, high = (rate * (value or 0.0) / here for value in there)
    return ScaledRate(measured.test, rate, expected, low, high)
