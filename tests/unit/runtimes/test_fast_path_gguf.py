"""Which kernels llama.cpp takes: real files of one layer, opened by llama.cpp in a child process."""

from __future__ import annotations

import math
import re
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgeport.errors import EdgeportError, RuntimeFailure
from edgeport.manifest import from_json
from edgeport.runtimes.fast_path.check import INSPECTORS, check_fast_path
from edgeport.runtimes.fast_path.llama_cpp import built_features, read_load_log, unused_features
from edgeport.runtimes.fast_path.llama_kernels import unpacked_kernel
from edgeport.runtimes.fast_path.report import (
    ATTENTION,
    LOOKUP,
    MATRIX,
    ContainerReport,
    EngineFindings,
    KernelGroup,
)
from edgeport.runtimes.isolation import run_isolated

WIDTH, VOCAB = 256, 264
X86 = frozenset(["AVX", "AVX2", "F16C", "FMA", "LLAMAFILE", "REPACK"])
ARM = frozenset(["NEON", "ARM_FMA", "FP16_VA", "DOTPROD", "MATMUL_INT8", "LLAMAFILE", "REPACK"])
on_avx2 = pytest.mark.skipif(
    "avx2" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"), reason="the verdicts are those of AVX2"
)


def write_model(path: Path, kind: str, *, vocab: int = VOCAB, width: int = WIDTH) -> Path:
    """A llama of one layer whose matrices are all of `kind`, all weights zero; the embedding is F32 and not the head."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(width)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 4)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("none")
    stored = gguf.GGMLQuantizationType[kind]
    block, block_bytes = gguf.GGML_QUANT_SIZES[stored]

    def add_matrix(name: str, rows: int) -> None:
        data = np.zeros((rows, width // block * block_bytes), np.uint8)
        writer.add_tensor(name, data, raw_dtype=stored)

    writer.add_tensor("token_embd.weight", np.zeros((vocab, width), np.float32))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    add_matrix("output.weight", vocab)
    for norm in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{norm}.weight", np.ones(width, np.float32))
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        add_matrix(f"blk.0.{part}.weight", width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def check(path: Path) -> ContainerReport:
    return check_fast_path(path).containers[0]


def matrices(report: ContainerReport) -> list[KernelGroup]:
    return [group for group in report.groups if group.role == MATRIX]


@on_avx2
@pytest.mark.parametrize(
    ("kind", "kernel"),
    [("Q4_K", "repacked q4_K_8x8"), ("Q6_K", "tiled for prompts"), ("Q8_0", "tinyBLAS for prompts")],
)
def test_fast_types(kind: str, kernel: str, tmp_path: Path) -> None:
    report = check(write_model(tmp_path / "model.gguf", kind))
    (group,) = matrices(report)
    assert report.fast and group.fast and group.kernel.startswith(kernel) and group.count == 8
    assert group.tensor_type == kind


@on_avx2
@pytest.mark.parametrize("kind", ["Q5_1", "Q4_1"])
def test_types_without_a_kernel_for_prompts_are_slow(kind: str, tmp_path: Path) -> None:
    report = check(write_model(tmp_path / "model.gguf", kind))
    (group,) = matrices(report)
    assert not report.fast and not group.fast and group.kernel == "dot products, row by row"
    assert kind in group.cause and "Q" in group.cure and "no repack line for" in group.evidence


@on_avx2
def test_rows_that_do_not_fit_the_interleaving_are_slow_alone(tmp_path: Path) -> None:
    report = check(write_model(tmp_path / "model.gguf", "Q4_0", vocab=VOCAB - 4))
    head, others = sorted(matrices(report), key=lambda group: group.count)
    assert not report.fast and report.groups[0] == head, "what is slow comes first"
    assert (head.count, head.fast, others.count, others.fast) == (1, False, 7, True)
    assert "260 rows" in head.cause and "multiples of 8" in head.cure


@on_avx2
def test_bytes_agree_with_the_gguf_library_and_with_the_engines_buffer(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", "Q4_0")
    report = check(path)
    (group,) = matrices(report)
    stored = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors}
    lookups = [item for item in report.groups if item.role == LOOKUP]
    assert [item.size_bytes for item in lookups] == [stored.pop("token_embd.weight")]
    assert group.size_bytes == sum(size for name, size in stored.items() if "norm" not in name)
    # The same model with repacking impossible for one tensor: llama.cpp's own sum of what it repacked is the rest.
    mixed = check(write_model(tmp_path / "mixed.gguf", "Q4_0", vocab=VOCAB - 4))
    head, others = sorted(matrices(mixed), key=lambda item: item.count)
    repacked = re.search(r"CPU_REPACK (\S+) MiB", head.evidence)
    assert repacked is not None
    assert math.isclose(float(repacked.group(1)), others.size_bytes / 2**20, abs_tol=0.006)


@pytest.mark.parametrize(("fused", "operation"), [(True, "FLASH_ATTN_EXT"), (False, "SOFT_MAX")])
def test_attention_is_told_of(fused: bool, operation: str, tmp_path: Path) -> None:
    path, log = write_model(tmp_path / "model.gguf", "F16"), tmp_path / "log"
    arguments = {"path": str(path), "settings": {"flash_attention": fused}, "log": str(log)}
    found = run_isolated(INSPECTORS["gguf"], arguments, environment={"EDGEPORT_ENGINE_LOG": "1"})
    findings: EngineFindings = from_json(EngineFindings, found)
    (attention,) = (group for group in findings.groups if group.role == ATTENTION)
    assert attention.count == 1 and attention.evidence.endswith(operation)
    assert ("fused" in attention.kernel) == fused


def test_without_the_engines_log_nothing_is_claimed(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", "F16")
    arguments = {"path": str(path), "settings": {}, "log": str(tmp_path / "log")}
    with pytest.raises(RuntimeFailure, match="names no buffer"):
        run_isolated(INSPECTORS["gguf"], arguments)


def test_a_damaged_file_is_an_error_of_ours(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", "Q4_0")
    path.write_bytes(path.read_bytes()[:-4096])
    with pytest.raises(EdgeportError):
        check_fast_path(path)


def test_the_log_without_repacking_is_not_taken_for_repacked() -> None:
    loaded = read_load_log(["load_tensors:          CPU model buffer size =     1.08 MiB"])
    assert loaded.repacked == {} and loaded.buffers == [("CPU", "1.08 MiB")]


@pytest.mark.parametrize(
    ("kind", "rows", "features", "fast", "word"),
    [
        ("Q8_0", 64, X86, True, "tinyBLAS"),
        ("Q5_0", 64, X86, True, "tinyBLAS"),
        ("Q5_0", 64, ARM, False, "row by row"),
        ("Q8_0", 62, ARM, False, "multiple of 4"),
        ("Q8_0", 64, ARM - {"DOTPROD", "MATMUL_INT8"}, False, "DOTPROD"),
        ("Q2_K", 64, X86, False, "AVX512"),
        ("Q4_0", 64, X86 - {"REPACK"}, False, "GGML_CPU_REPACK"),
        ("Q4_0", 64, X86, False, "did not repack"),
        ("Q6_K", 64, frozenset({"SSE3", "LLAMAFILE"}), False, "row by row"),
        ("F16", 64, X86, True, "tinyBLAS"),
        ("F16", 64, X86 - {"F16C"}, False, "row by row"),
        ("BF16", 64, ARM, False, "row by row"),
        ("Q8_0", 64, X86 - {"LLAMAFILE"}, False, "row by row"),
    ],
)
def test_verdicts_of_other_processors(
    kind: str, rows: int, features: frozenset[str], fast: bool, word: str
) -> None:
    kernel = unpacked_kernel(kind, rows, features)
    assert kernel.fast == fast and word in f"{kernel.name} {kernel.cause} {kernel.cure}"
    assert fast == (not kernel.cause) == (not kernel.cure)


def test_a_build_for_an_older_processor_is_told_of() -> None:
    features = built_features("CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | LLAMAFILE = 1 | ")
    assert features == {"SSE3", "AVX2", "LLAMAFILE"}
    assert [item.what for item in unused_features(("avx2", "avx512_vnni"), features)] == ["avx512_vnni"]
    assert unused_features(("avx2", "avx_vnni"), features | {"AVX512_VNNI"}) == ()
    assert [item.what for item in unused_features(("neon", "dotprod", "i8mm"), ARM - {"DOTPROD"})] == [
        "dotprod"
    ]
