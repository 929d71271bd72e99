"""What a benchmark says of kernel rates: its times beside the bytes and operations they took. For `edgeport.devices.refine`."""

from __future__ import annotations

from pathlib import Path

from edgeport.devices.kernels import DecodeObservation, Observation, PromptObservation
from edgeport.devices.profile import ENGINE_FORMATS
from edgeport.devices.shape import shape_of
from edgeport.devices.work import decode_work, kv_bits_of, nominal_bits, prompt_work, stored_weights
from edgeport.manifest import Manifest, base_format, is_native
from edgeport.runtimes.bench.roofline import mean_cache_entries
from edgeport.runtimes.bench.run import BenchReport
from edgeport.runtimes.bench.speed import Speed
from edgeport.runtimes.bench.weights import read_tensors

ENGINE_OF_FORMAT = {name: engine for engine, name in ENGINE_FORMATS.items() if name != "safetensors"}


def observations(
    directory: Path, manifest: Manifest, report: BenchReport
) -> tuple[list[Observation], list[str]]:
    """One for each container that was timed, and why the others say nothing."""
    found, without = [], []
    for speed in report.containers:
        reason = _reason_against(speed)
        if reason:
            without.append(f"{speed.format}: {reason}")
        else:
            found.append(_observation(directory, manifest, speed))
    return found, without


def _reason_against(speed: Speed) -> str | None:
    if is_native(speed.format):
        return "its scheme has kernels of its own; rates are kept for the portable INT4 and INT8"
    if base_format(speed.format) not in ENGINE_OF_FORMAT:
        return "no speed is predicted for its engine"
    return None


def _observation(directory: Path, manifest: Manifest, speed: Speed) -> Observation:
    engine = ENGINE_OF_FORMAT[speed.format]
    entry = manifest.container(speed.format)
    places = {
        item.place: item.size_bytes for item in read_tensors(speed.format, directory / entry.entry_point)
    }
    size = sum(places.values())
    shape = shape_of(manifest.model)
    bits = nominal_bits(shape, size)
    weights = stored_weights(shape, size, bits)
    decode = prompt = None
    if speed.decode is not None:
        depth = round(mean_cache_entries(speed.n_gen, speed.n_depth))
        work = decode_work(shape, weights, depth=depth, batch=1, kv_bits=kv_bits_of(engine))
        decode = DecodeObservation(work, 1 / speed.decode.median_tokens_per_s, speed.decode.variation)
    if speed.prefill is not None:
        task = prompt_work(shape, weights, engine, tokens=speed.n_prompt, depth=speed.n_depth)
        seconds = speed.n_prompt / speed.prefill.median_tokens_per_s
        prompt = PromptObservation(task, seconds, speed.prefill.variation)
    version = f" {speed.engine_version}" if speed.engine_version else ""
    source = f"edgeport bench, {engine}{version}, {manifest.name}, {speed.measured_at[:10]}"
    return Observation(engine, bits, decode, prompt, threads=speed.threads, source=source)
