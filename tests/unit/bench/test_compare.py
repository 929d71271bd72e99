"""Unlike things are refused, each of them by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from edgeport.errors import UsageError
from edgeport.manifest import Manifest
from edgeport.runtimes.bench.compare import differences, dig, relative_speeds


def test_alike_measurements_give_ratios(measured_manifest: Manifest) -> None:
    assert differences(measured_manifest.speed) == []
    assert relative_speeds(measured_manifest.speed) == {"gguf": 1.0, "onnx": 0.75}
    assert relative_speeds(measured_manifest.speed, test="prefill") == {"gguf": 1.0, "onnx": 0.9}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("weights_id", "ff" * 32, "weights: gguf 3fa9c10b0b0b…, onnx ffffffffffff…"),
        ("threads", 2, "threads: gguf 4, onnx 2"),
        ("context_length", 2048, "context length: gguf 640, onnx 2048"),
        ("n_prompt", 256, "prompt length: gguf 512, onnx 256"),
        ("n_gen", 16, "generated length: gguf 128, onnx 16"),
        ("n_depth", 64, "depth: gguf 0, onnx 64"),
        ("n_depth", None, "depth: gguf 0, onnx not recorded"),
    ],
)
def test_unlike_measurements_are_refused(
    measured_manifest: Manifest, key: str, value: Any, said: str
) -> None:
    speed = copy.deepcopy(dict(measured_manifest.speed))
    speed["onnx"][key] = value
    with pytest.raises(UsageError) as refused:
        relative_speeds(speed)
    assert said in refused.value.message
    assert refused.value.hint


def test_another_machine_is_refused(measured_manifest: Manifest) -> None:
    speed = copy.deepcopy(dict(measured_manifest.speed))
    speed["onnx"]["environment"] = {**speed["onnx"]["environment"], "cpu_model": "Xeon"}
    with pytest.raises(UsageError, match="CPU: gguf Cortex-A76, onnx Xeon"):
        relative_speeds(speed)


def test_dig_stops_at_the_first_gap() -> None:
    assert dig({"a": {"b": 1}}, "a.b") == 1
    assert dig({"a": {"b": 1}}, "a.c.d") is None
    assert dig({"a": 3}, "a.b") is None
    assert dig(None, "a") is None
