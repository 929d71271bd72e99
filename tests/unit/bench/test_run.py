"""`edgeport bench` on a real artifact and its real engines, each in its own process."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgeport.cli import main
from edgeport.errors import ArtifactError, MissingExtra, UsageError
from edgeport.manifest import DraftEntry, read_manifest, write_manifest
from edgeport.runtimes.bench.measure import Workload
from edgeport.runtimes.bench.run import BenchOptions, benchmark
from edgeport.runtimes.bench.selection import choose_containers

# tools/llama-bench/llama-bench.cpp, test::get_fields: those that mean something for every engine
LLAMA_BENCH_KEYS = {
    "build_commit", "cpu_info", "backends", "model_filename", "model_type", "model_size", "model_n_params",
    "n_threads", "n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts",
    "samples_ns", "samples_ts",
}  # fmt: skip


@pytest.fixture
def artifact(packed_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed_dir, tmp_path / "tiny"))


def test_every_engine_is_measured_and_the_manifest_remembers(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(artifact), "-n", "8", "-r", "5", "--threads", "1", "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert [item["format"] for item in document["containers"]] == ["gguf", "onnx", "openvino"]
    assert [item["format"] for item in document["skipped"]] == ["safetensors"]
    assert "not measured: safetensors" in printed.err
    assert [item["test"] for item in document["results"]] == ["pp256 (of 512)", "tg8"] * 3
    for line in document["results"]:
        check_line(line)
    manifest = read_manifest(artifact)
    assert dict(manifest.speed) == {item["format"]: item for item in document["containers"]}
    for record in manifest.speed.values():
        check_record(record)


def check_line(line: dict[str, Any]) -> None:
    assert line.keys() >= LLAMA_BENCH_KEYS
    tokens = line["n_prompt"] + line["n_gen"]
    assert len(line["samples_ns"]) == len(line["samples_ts"]) == 5
    assert line["samples_ts"] == pytest.approx([1e9 * tokens / sample for sample in line["samples_ns"]])
    assert line["avg_ts"] == pytest.approx(sum(line["samples_ts"]) / 5)
    if line["n_gen"]:
        assert [len(repetition) for repetition in line["token_ns"]] == [8] * 5
        assert [sum(repetition) for repetition in line["token_ns"]] == line["samples_ns"]


def check_record(record: dict[str, Any]) -> None:
    memory = record["memory"]
    assert record["threads"] == 1
    assert record["load_ms"] > 0
    assert record["ttft_cold_ms"] > 0
    assert (
        record["inter_token"]["p50_ms"]
        <= record["inter_token"]["p99_ms"]
        <= record["inter_token"]["maximum_ms"]
    )
    assert memory["after_load"]["resident_bytes"] > memory["before_load"]["resident_bytes"]
    assert memory["after_prompt"]["peak_resident_bytes"] >= memory["after_load"]["peak_resident_bytes"]
    assert record["roofline"]["verdict"] in ("cache-resident", "measured")
    # two layers, two key-value heads of 16, float16, keys and values: 256 bytes a token, 4.5 tokens on average
    assert record["roofline"]["kv_bytes_per_token"] == 1152


def test_the_table_names_tests_and_keeps_what_others_measured(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_manifest(artifact)
    write_manifest(
        dataclasses.replace(manifest, quality={"gguf": {"perplexity": 5.0}}, speed={"onnx": {"kept": True}}),
        artifact,
    )
    code = main(["bench", str(artifact), "--format", "gguf", "-p", "16", "-n", "4", "-r", "2", "--no-memory"])
    printed = capsys.readouterr()
    assert code == 0
    header, _, row, *_ = printed.out.splitlines()
    assert "pp16 t/s" in header
    assert "tg4 t/s" in header
    assert row.startswith("gguf")
    assert " ± " in row
    after = read_manifest(artifact)
    assert after.quality == {"gguf": {"perplexity": 5.0}}
    assert after.speed["onnx"] == {"kept": True}
    assert after.speed["gguf"]["memory"] is None


def test_the_table_says_that_a_draft_is_there(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = DraftEntry("draft", "id", acceptance_rate=0.714)
    write_manifest(dataclasses.replace(read_manifest(artifact), draft=entry), artifact)
    words = ["bench", str(artifact), "--format", "gguf", "-p", "4", "-n", "2", "-r", "2", "--no-memory"]
    assert main(words) == 0
    assert "without the draft in draft (kept on text: 71% of its proposals)" in capsys.readouterr().out
    assert read_manifest(artifact).draft == entry, "recording figures keeps it"


def test_a_damaged_container_fails_alone(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = artifact / read_manifest(artifact).container("gguf").entry_point
    path.write_bytes(path.read_bytes()[:1000])
    code = main(
        ["bench", str(artifact), "--format", "gguf,onnx", "-p", "8", "-n", "2", "-r", "1", "--no-memory"]
    )
    printed = capsys.readouterr()
    assert code == 1
    assert "failed: gguf: " in printed.err
    assert [line.split()[0] for line in printed.out.splitlines()[2:3]] == ["onnx"]
    assert set(read_manifest(artifact).speed) == {"onnx"}


def test_what_is_named_must_be_there(artifact: Path) -> None:
    with pytest.raises(ArtifactError, match="tflite"):
        benchmark(artifact, BenchOptions(formats=("tflite",)))


def test_depth_beyond_the_context_is_refused_before_anything_is_opened(artifact: Path) -> None:
    with pytest.raises(UsageError, match="leaves no room"):
        benchmark(artifact, BenchOptions(workload=Workload(n_depth=256)))


def test_without_engines_it_says_what_to_install(packed_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edgeport.runtimes.bench.selection.unavailable_because", lambda name: f"{name} is missing"
    )
    manifest = read_manifest(packed_dir)
    with pytest.raises(MissingExtra, match="gguf: gguf is missing"):
        choose_containers(manifest, None)
    with pytest.raises(MissingExtra, match="onnx is missing"):
        choose_containers(manifest, ["onnx"])


def test_tuned_settings_are_used_recorded_and_can_be_left_out(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That they arrive in the child is seen with a cache type this model's heads are too narrow for."""
    from edgeport.runtimes.container import find_containers
    from edgeport.runtimes.tuning import store

    monkeypatch.setenv("EDGEPORT_CACHE", str(tmp_path / "cache"))
    container = next(item for item in find_containers(artifact) if item.format == "gguf")
    host, identity = store.read_host_key("gguf"), store.identity(container)
    command = ["bench", str(artifact), "--format", "gguf", "-p", "8", "-n", "4", "-r", "1", "--no-memory"]

    def tuned(settings: dict[str, Any]) -> None:
        made = store.Tuned("tiny", "gguf", identity, "decode", host, settings, 1.1, 1.05, 1.2, 9.0, "now")
        assert store.remember(container, made)

    tuned({"threads": 1, "key_cache": "bf16"})
    assert main(command) == 0
    assert "gguf as tuned here: threads=1, key_cache=bf16" in capsys.readouterr().out
    assert read_manifest(artifact).speed["gguf"]["settings"] == {"threads": 1, "key_cache": "bf16"}
    tuned({"key_cache": "q4_0", "value_cache": "q4_0"})
    assert main(command) == 1
    assert main([*command, "--no-tuned"]) == 0
    assert "tuned" not in capsys.readouterr().out
    assert read_manifest(artifact).speed["gguf"]["settings"] == {}
