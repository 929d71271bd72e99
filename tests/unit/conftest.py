"""The manifest of a fully measured artifact with two containers, as the unit tests of measuring and of telling use it."""

from __future__ import annotations

from typing import Any

import pytest

from edgeport.manifest import ContainerEntry, FileEntry, Manifest, ModelFacts, SourceFacts

WEIGHTS_ID = "3fa9c1" + "0b" * 29
ENVIRONMENT: dict[str, Any] = {
    "cpu_model": "Cortex-A76",
    "architecture": "aarch64",
    "cores": 4,
    "logical_cpus": 4,
    "cpu_quota": None,
    "isa": ["neon", "dotprod"],
    "last_level_cache_bytes": 2 << 20,
    "governor": None,
    "ram_bytes": 8 << 30,
    "available_bytes": 7 << 30,
    "load_average": 0.12,
    "container": "none",
    "operating_system": "Debian GNU/Linux 12",
    "kernel": "6.6.31",
    "python": "3.11.2",
    "packages": ["edgeport 0.1.0"],
}


def speed_record(format_name: str, decode: float, prefill: float) -> dict[str, Any]:
    memory = {"resident_bytes": 400 << 20, "anonymous_bytes": 150 << 20, "mapped_file_bytes": 250 << 20}
    return {
        "format": format_name,
        "engine": "llama.cpp",
        "engine_version": "0.3.36",
        "weights_id": WEIGHTS_ID,
        "measured_at": "2026-11-20T15:00:00Z",
        "threads": 4,
        "context_length": 640,
        "n_prompt": 512,
        "n_gen": 128,
        "n_depth": 0,
        "load_ms": 350.0,
        "ttft_cold_ms": 2900.0,
        "ttft_warm_ms": 2400.0,
        "prefill": {"test": "pp512", "tokens_per_s": prefill, "standard_deviation": 1.0, "noisy": False},
        "decode": {"test": "tg128", "tokens_per_s": decode, "standard_deviation": 0.4, "noisy": False},
        "inter_token": {"p50_ms": 24.0, "p95_ms": 25.0, "p99_ms": 31.0, "maximum_ms": 60.0},
        "memory": {"after_load": memory, "after_prompt": {**memory, "peak_resident_bytes": 480 << 20}},
        "roofline": {"share": 0.71, "verdict": "measured"},
        "environment": ENVIRONMENT,
    }


def quality_record(perplexity: float) -> dict[str, Any]:
    return {
        "perplexity": perplexity,
        "perplexity_error": 0.09,
        "base_perplexity": 13.07,
        "mean_kl_divergence": 0.0412,
        "same_top1": 0.871,
        "tokens": 40960,
        "n_ctx": 512,
        "runtime": "llama.cpp",
    }


@pytest.fixture
def measured_manifest() -> Manifest:
    """Two containers of one model, both with quality and speed."""
    containers = tuple(
        ContainerEntry(
            format=name,
            entry_point=f"{name}/model",
            files=(FileEntry(f"{name}/model", 350 << 20, "ab" * 32),),
            size_bytes=350 << 20,
            weights_id=WEIGHTS_ID,
            verified=True,
        )
        for name in ("gguf", "onnx")
    )
    return Manifest(
        name="qwen-edge",
        created="2026-11-20T14:00:00Z",
        source=SourceFacts("Qwen/Qwen2.5-0.5B", "cd" * 32, 988 << 20, "bfloat16"),
        recipe={"name": "int4"},
        device="raspberry-pi-5-8gb",
        model=_facts(),
        weights_id=WEIGHTS_ID,
        containers=containers,
        quality={"gguf": quality_record(13.55), "onnx": quality_record(13.58)},
        speed={"gguf": speed_record("gguf", 40.0, 200.0), "onnx": speed_record("onnx", 30.0, 180.0)},
    )


def _facts() -> ModelFacts:
    return ModelFacts(
        family="qwen2",
        parameters=494_032_768,
        layers=24,
        hidden_size=896,
        intermediate_size=4864,
        heads=14,
        kv_heads=2,
        head_dim=64,
        vocab_size=151_936,
        context_length=32_768,
        tied_embeddings=True,
        bits_per_weight=5.61,
        kv_bytes_per_token=12_288,
    )
