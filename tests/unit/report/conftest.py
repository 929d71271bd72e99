"""The fully measured manifest with everything that newer benchmarks record; `measured_manifest` alone is an older one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgeport.manifest import Manifest, to_json
from edgeport.runtimes.bench.prediction import Prediction
from edgeport.runtimes.bench.roofline import roofline
from edgeport.runtimes.bench.timeline import MemoryMoment

STAGES = ("import", "load", "prompt", "decode")


@pytest.fixture
def full_manifest(measured_manifest: Manifest) -> Manifest:
    speed = {
        name: with_newer_parts(record, slower)
        for slower, (name, record) in enumerate(measured_manifest.speed.items(), start=1)
    }
    return dataclasses.replace(measured_manifest, speed=speed, soak={"gguf": soak_record()})


def soak_record() -> dict[str, Any]:
    """Ten minutes without a violation, as runtimes/bench/soak_run.py writes them."""
    growth = {"bytes_per_hour": 3 << 20, "low_bytes_per_hour": -1 << 20, "high_bytes_per_hour": 7 << 20}
    drift = {"first_ms": 24.0, "last_ms": 24.5, "ratio": 1.02, "low": 0.99, "high": 1.05}
    moments = [
        {
            "seconds": 30.0 * at,
            "resident_bytes": 400 << 20,
            "anonymous_bytes": 150 << 20,
            "p50_ms": 24.0 + at % 2,
        }
        for at in range(1, 21)
    ]
    return {
        "format": "gguf", "asked_seconds": 600.0, "seconds": 600.0, "passes": 180, "tokens": 11_520, "interrupted": False,
        "judgement": {
            "verdict": "passed", "violations": [], "resident": growth, "anonymous": growth,
            "drift_p50": drift, "drift_p95": None, "wrong_outputs": [], "passes_with_infinite_logits": 0,
        },
        "moments": moments,
    }  # fmt: skip


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
