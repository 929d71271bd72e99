"""The fully measured manifest with everything that newer benchmarks record; `measured_manifest` alone is an older one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from edgeport.manifest import Manifest, from_json, to_json
from edgeport.runtimes.bench.environment import Environment
from edgeport.runtimes.bench.prediction import Prediction
from edgeport.runtimes.bench.roofline import roofline
from edgeport.runtimes.bench.soak_judge import Drift, Growth, SoakJudgement, SoakLimits
from edgeport.runtimes.bench.soak_run import SoakMoment, SoakReport
from edgeport.runtimes.bench.timeline import MemoryMoment

STAGES = ("import", "load", "prompt", "decode")


@pytest.fixture
def full_manifest(measured_manifest: Manifest) -> Manifest:
    speed = {
        name: with_newer_parts(record, slower)
        for slower, (name, record) in enumerate(measured_manifest.speed.items(), start=1)
    }
    return dataclasses.replace(
        measured_manifest, speed=speed, soak={"gguf": soak_record(speed["gguf"]["environment"])}
    )


def soak_record(environment: Mapping[str, Any]) -> Any:
    """Ten minutes without a violation, as the benchmark writes them."""
    growth = Growth(3 << 20, -1 << 20, 7 << 20, 150 << 20, 151 << 20)
    drift = Drift(24.0, 24.5, 1.02, 0.99, 1.05)
    report = SoakReport(
        format="gguf", engine="llama.cpp", engine_version="0.3.36", weights_id="3fa9c1", measured_at="2026-11-21T15:00:00Z",
        asked_seconds=600.0, seconds=600.0, passes=180, tokens=11_520, n_prompt=128, n_gen=64, threads=4,
        interrupted=False, fault=None, limits=SoakLimits(),
        judgement=SoakJudgement("passed", (), growth, growth, drift, None, (), 0),
        moments=tuple(SoakMoment(30.0 * at, 400 << 20, 150 << 20, 24.0 + at % 2) for at in range(1, 21)),
        environment=from_json(Environment, environment),
    )  # fmt: skip
    return to_json(report)


def with_newer_parts(record: dict[str, Any], slower: int) -> dict[str, Any]:
    """Percentiles from 10 ms upwards, twelve moments over 2.75 s, 10 % more decoding predicted than measured."""
    moments = [
        MemoryMoment(
            0.25 * at, STAGES[at // 3], (100 + 20 * at) << 20, (60 + 15 * at) << 20, (40 + 5 * at) << 20
        )  # type: ignore[arg-type]
        for at in range(12)
    ]
    decode, prefill = record["decode"]["tokens_per_s"], record["prefill"]["tokens_per_s"]
    predicted = Prediction(
        memory_bytes=500 << 20, memory_low_bytes=450 << 20, memory_high_bytes=550 << 20,
        prefill_tokens_per_s=prefill / 2, prefill_low_tokens_per_s=prefill / 4, prefill_high_tokens_per_s=prefill * 0.8,
        decode_tokens_per_s=decode * 1.1, decode_low_tokens_per_s=decode * 0.9, decode_high_tokens_per_s=decode * 1.3,
        profile="host", basis="bandwidth measured here",
    )  # fmt: skip
    return {
        **record,
        "inter_token": {
            **record["inter_token"],
            "percentiles_ms": [slower * (10.0 + percent * percent / 100) for percent in range(101)],
        },
        "memory_timeline": to_json(moments),
        "predicted": to_json(predicted),
        "load_cold_ms": 900.0,
        "roofline": to_json(
            roofline(300 << 20, 12_288 * 64.5, decode, bandwidth_bytes_per_s=17.1e9, cache_bytes=2 << 20)
        ),
    }
