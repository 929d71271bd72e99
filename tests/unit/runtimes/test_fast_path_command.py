"""`edgeport fast-path` over an artifact's containers, with the engines themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgeport.cli import main
from edgeport.errors import UsageError
from edgeport.manifest import from_json, to_json
from edgeport.runtimes.container import find_containers
from edgeport.runtimes.fast_path.check import INSPECTORS, check_fast_path
from edgeport.runtimes.fast_path.report import (
    ATTENTION,
    LOOKUP,
    MATRIX,
    ContainerReport,
    EngineFindings,
    FastPathReport,
    KernelGroup,
    Unused,
    container_report,
    largest_first,
)
from edgeport.runtimes.fast_path.text import report_text
from edgeport.runtimes.tuning.store import Tuned, read_host_key, remember

MATRICES = {"gguf": 15, "onnx": 11, "openvino": 15}
"""Two layers of seven matrices and the head; the ONNX graph has query, key and value in one."""
FAST = KernelGroup(MATRIX, "Q4_0", 7, 1 << 20, "repacked q4_0_8x8", True, evidence="log: repack")
SLOW = KernelGroup(MATRIX, "Q5_1", 1, 1 << 10, "dot products", False, "no kernel", "take Q5_K", "log: none")


@pytest.fixture(scope="module")
def report(packed_dir: Path) -> FastPathReport:
    return check_fast_path(packed_dir)


def test_every_container_of_an_export_is_looked_at(report: FastPathReport) -> None:
    assert {item.format for item in report.containers} == set(INSPECTORS)
    assert [item.format for item in report.skipped] == ["safetensors"]
    for item in report.containers:
        matrices = [group for group in item.groups if group.role == MATRIX]
        assert sum(group.count for group in matrices) == MATRICES[item.format]
        assert {group.role for group in item.groups} == {MATRIX, LOOKUP, ATTENTION}
        assert all(group.evidence for group in item.groups)


def test_containers_of_one_model_hold_as_many_bytes_of_codes(report: FastPathReport) -> None:
    """Two of the three engines read the same codes and float16 scales; OpenVINO adds a byte of zero point per matrix or so."""
    sizes = {
        item.format: sum(group.size_bytes for group in item.groups if group.role == MATRIX)
        for item in report.containers
    }
    assert sizes["gguf"] == sizes["onnx"] <= sizes["openvino"] < 1.01 * sizes["gguf"]


def test_it_survives_a_round_trip_through_json(report: FastPathReport) -> None:
    assert from_json(FastPathReport, json.loads(json.dumps(to_json(report)))) == report


def test_the_command_prints_and_exits_by_the_verdict(
    packed_dir: Path, report: FastPathReport, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = {item.format: item.fast for item in report.containers}
    code = main(["fast-path", str(packed_dir), "--format", "onnx", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert code == (0 if verdicts["onnx"] else 1) and document["fast"] is verdicts["onnx"]
    assert [item["format"] for item in document["containers"]] == ["onnx"]


def test_the_command_says_no(packed_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped graph with every accuracy_level at 1: one byte per node, as a careless tool would leave it."""
    copy = tmp_path / "onnx"
    shutil.copytree(packed_dir / "onnx", copy)
    graph, name = copy / "model.onnx", b"\x0a\x0eaccuracy_level\x18"
    before = graph.read_bytes()
    graph.write_bytes(before.replace(name + b"\x04", name + b"\x01"))
    assert graph.read_bytes() != before
    assert main(["fast-path", str(copy), "--evidence"]) == 1
    shown = capsys.readouterr().out
    assert "SLOW" in shown and "accuracy_level 1" in shown and "cure: set accuracy_level to 4" in shown
    assert "expanded to float32 on every call" in shown, "the INT8 head"


def test_tuned_settings_are_those_it_looks_at(
    packed_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPORT_CACHE", str(tmp_path))
    (container,) = (item for item in find_containers(packed_dir) if item.format == "gguf")
    host = read_host_key("gguf")
    assert remember(
        container, Tuned("m", "gguf", "", "decode", host, {"repack": False}, 1.1, 1.0, 1.2, 1.0, "now")
    )
    tuned = check_fast_path(packed_dir, formats=["gguf"]).containers[0]
    plain = check_fast_path(packed_dir, formats=["gguf"], tuned=False).containers[0]
    assert (tuned.settings, plain.settings) == ("repack=off", "defaults")
    assert tuned.fast and any(group.kernel.endswith("repacking is off") for group in tuned.groups)
    assert not any("repacked" in group.kernel for group in tuned.groups)
    assert not any("repacking is off" in group.kernel for group in plain.groups)


def test_formats_without_kernels_or_without_a_container_are_refused(packed_dir: Path) -> None:
    with pytest.raises(UsageError, match="cannot be checked"):
        check_fast_path(packed_dir, formats=["safetensors"])
    with pytest.raises(UsageError, match="no 'gguf-q4_k_m' container"):
        check_fast_path(packed_dir, formats=["gguf-q4_k_m"])


def test_one_slow_group_or_an_unused_instruction_set_makes_a_container_slow() -> None:
    unused = Unused("avx512_vnni", "build it", "system info: AVX2")
    assert container_report("gguf", "m", "defaults", EngineFindings("llama.cpp", (FAST,))).fast
    assert not container_report("gguf", "m", "defaults", EngineFindings("llama.cpp", (FAST, SLOW))).fast
    assert not container_report("gguf", "m", "defaults", EngineFindings("llama.cpp", (FAST,), (unused,))).fast
    assert largest_first((FAST, SLOW)) == (SLOW, FAST)


def test_the_text_names_cause_cure_and_evidence() -> None:
    unused = Unused("avx512_vnni", "build it", "system info: AVX2")
    container = ContainerReport("gguf", "m.gguf", "llama.cpp", "defaults", False, (SLOW, FAST), (unused,))
    text = report_text(FastPathReport("Zen", ("avx2",), False, (container,)))
    for words in (
        "gguf: SLOW (llama.cpp; settings: defaults)",
        "slow: Q5_1, no kernel",
        "cure: take Q5_K",
        "evidence: log: none",
    ):
        assert words in text
    assert "unused: avx512_vnni" in text and "log: repack" not in text
    assert "log: repack" in report_text(FastPathReport("Zen", ("avx2",), False, (container,)), evidence=True)
