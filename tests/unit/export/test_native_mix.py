"""What is foretold of a GGUF in llama.cpp's own types, against the files llama.cpp really writes."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.export.families.table import read_spec
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.gguf import GgufFormat
from edgeport.export.formats.gguf_tensors import gguf_name
from edgeport.export.native.gguf_forecast import forecast
from edgeport.export.native.gguf_imatrix import ImatrixText, write_imatrix
from edgeport.export.native.gguf_k_quants import _float_file
from edgeport.export.native.gguf_mix import MIXES, Type, fitting, tensor_types
from edgeport.export.native.gguf_quantize import _importance, quantize_in_child
from edgeport.export.native.table import NATIVE, get_native
from edgeport.export.safetensors_file import SafetensorsWriter, TensorPlan
from edgeport.export.source import SIDE_FILES, SourceModel, open_source
from edgeport.export.verify.gguf_header import read_header
from edgeport.progress import NO_PROGRESS
from edgeport.runtimes.isolation import run_isolated


def layers_of(sharing: Sequence[int]) -> Mapping[str, Any]:
    """Layers that differ (family nemotron-nas): query heads per key-value head, and narrow layers between wide ones."""
    blocks = [
        {"attention": {"n_heads_in_group": group}, "ffn": {"intermediate_size": 256 if index % 3 else 96}}
        for index, group in enumerate(sharing)
    ]
    family = {"architectures": ["DeciLMForCausalLM"], "model_type": "nemotron-nas"}
    return {**family, "hidden_size": 256, "num_hidden_layers": len(blocks), "block_configs": blocks}


SHAPES: Mapping[str, Mapping[str, Any]] = {
    # 16 layers: the first eighth has two; 72 is no multiple of 32: float16
    "fallbacks": {
        "hidden_size": 64,
        "intermediate_size": 72,
        "num_hidden_layers": 16,
        "num_key_value_heads": 2,
    },
    # rows of 256, four query heads to a key head
    "whole": {
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_hidden_layers": 16,
        "num_key_value_heads": 1,
    },
    # Qwen2.5-0.5B's rows in one layer: 896 is a multiple of 32, 512 of 256
    "896": {"hidden_size": 896, "intermediate_size": 512, "num_hidden_layers": 1, "num_key_value_heads": 2},
    # llama.cpp gives value heads that four share more bits, and asks the first layer for all of them
    "first shared by four": layers_of([4, 1, 2, 4, 1, 1, 1, 1]),
    "others shared by four": layers_of([2, 4, 4, 4, 4, 4, 4, 4]),
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A source, its float GGUF, and the importance of its linears as llama.cpp's file."""

    source: SourceModel
    floats: Path
    imatrix: Path


def model_of(shape: Mapping[str, Any], tiny: Path, directory: Path, *, tied: bool) -> SourceModel:
    """A random model of `shape` with the tokenizer and the other settings of the tiny one."""
    directory.mkdir()
    for name in SIDE_FILES:
        if (tiny / name).is_file():
            (directory / name).write_bytes((tiny / name).read_bytes())
    config = json.loads((tiny / "config.json").read_text())
    heads = config["num_attention_heads"]
    config |= {**shape, "head_dim": shape["hidden_size"] // heads, "tie_word_embeddings": tied}
    (directory / "config.json").write_text(json.dumps(config))
    spec = read_spec(config)
    random = np.random.default_rng(5)
    plan = [TensorPlan(item.name, "F32", item.shape) for item in spec.tensors()]
    with SafetensorsWriter(directory / "model.safetensors", plan) as writer:
        for item in plan:
            writer.write(item.name, random.standard_normal(item.shape, dtype=np.float32) * np.float32(0.05))
    return open_source(str(directory))


def prepare(shape: str, tiny: Path, folder: Path) -> Prepared:
    name, _, own_head = shape.partition(", ")
    source = model_of(SHAPES[name], tiny, folder / "model", tied=not own_head)
    floats, _ = _float_file(source, folder, WriteOptions("tiny", 256, NO_PROGRESS))
    random = np.random.default_rng(6)
    importance = {
        gguf_name(source.spec, item.name): random.gamma(1.0, size=item.shape[1]).astype(np.float32)
        for item in source.spec.tensors()
        if item.role == "linear"
    }
    write_imatrix(folder / "imatrix.gguf", importance, ImatrixText())
    return Prepared(source, floats, folder / "imatrix.gguf")


@pytest.fixture(scope="module", params=[*SHAPES, "whole, own head"])
def prepared(
    request: pytest.FixtureRequest, tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    return prepare(request.param, tiny_llama_dir, tmp_path_factory.mktemp("native"))


def cases() -> list[tuple[str, bool]]:
    return [(label, importance) for label in MIXES for importance in (False, True)]


def planned_types(source: str, imatrix: str, jobs: list[tuple[int, bool]]) -> list[dict[str, str]]:
    """In the child: llama.cpp's dry run tells in its log what each tensor will be, and quantizes nothing."""
    import llama_cpp.llama_cpp as native

    lines: list[str] = []

    @native.llama_log_callback  # type: ignore[untyped-decorator]
    def keep(_level: int, text: bytes, _user_data: object) -> None:
        lines.append(text.decode())

    native.llama_log_set(keep, ctypes.c_void_p(0))
    found = []
    for file_type, importance in jobs:
        lines.clear()
        parameters = native.llama_model_quantize_default_params()
        parameters.ftype, parameters.dry_run = file_type, True
        if importance:
            entries, values = _importance(native, Path(imatrix))
            parameters.imatrix = entries
        assert native.llama_model_quantize(source.encode(), b"unused", ctypes.byref(parameters)) == 0
        log = re.findall(
            r"\] +(\S+) +- \[[^]]*\], type = +(\w+), size = [^\[]*?MiB(?: \((\w+)\))?\n", "".join(lines)
        )
        found.append({name: (becomes or was).upper() for name, was, becomes in log})
    return found


def test_every_type_is_what_llama_cpp_plans(prepared: Prepared) -> None:
    jobs = [(int(MIXES[label].file_type), importance) for label, importance in cases()]
    arguments = {"source": str(prepared.floats), "imatrix": str(prepared.imatrix), "jobs": jobs}
    planned = run_isolated(f"{__name__}:planned_types", arguments)
    for (label, importance), found in zip(cases(), planned, strict=True):
        foretold = tensor_types(prepared.source.spec, MIXES[label], importance=importance)
        assert {name: item.stored.name for name, item in foretold.items()} == found, (label, importance)


def quantize_all(jobs: list[dict[str, object]]) -> None:
    """In the child: every file type in one process, because starting one takes longer than quantizing."""
    for job in jobs:
        quantize_in_child(**job)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shape", ["fallbacks", *(pytest.param(name, marks=pytest.mark.slow) for name in ("whole", "896"))]
)
def test_every_type_and_size_is_what_llama_cpp_writes(
    shape: str, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    prepared = prepare(shape, tiny_llama_dir, tmp_path)
    written = [case for case in cases() if case != ("Q2_K_S", False)]
    jobs = [
        {
            "source": str(prepared.floats),
            "target": str(tmp_path / f"{label}-{importance}.gguf"),
            "file_type": int(MIXES[label].file_type),
            "threads": 1,
            "imatrix": str(prepared.imatrix) if importance else None,
            "metadata": {},
        }
        for label, importance in written
    ]
    run_isolated(f"{__name__}:quantize_all", {"jobs": jobs})
    for label, importance in written:
        header = read_header(tmp_path / f"{label}-{importance}.gguf")
        spec = prepared.source.spec
        foretold = tensor_types(spec, MIXES[label], importance=importance)
        told = {name: (item.stored, item.size_bytes) for name, item in foretold.items()}
        found = {info.name: (info.type, info.stop - info.start) for info in header.tensors}
        assert told == found, (label, importance)
        total = forecast(spec, label, MIXES[label], importance=importance)
        assert total.size_bytes == sum(size for _, size in found.values())


def test_every_name_of_the_table_is_a_mix() -> None:
    labels = {name.removeprefix("gguf-").upper() for name in NATIVE if name.startswith("gguf-")}
    assert labels == set(MIXES)
    for label in labels:
        native = get_native(f"gguf-{label.lower()}")
        assert native.name == f"gguf-{label.lower()}" and native.base == "gguf"


def test_what_does_not_fit_falls_back() -> None:
    assert fitting(Type.Q4_K, 896) is Type.Q5_0
    assert fitting(Type.Q6_K, 896) is Type.Q8_0
    assert fitting(Type.Q3_K, 896) is Type.Q4_0
    assert fitting(Type.Q5_K, 896) is Type.Q5_1
    assert fitting(Type.Q4_K, 72) is Type.F16 and fitting(Type.Q8_0, 72) is Type.F16
    assert fitting(Type.Q4_K, 512) is Type.Q4_K


def qwen_0_5b() -> dict[str, object]:
    return {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "rope_theta": 1e6,
        "hidden_act": "silu",
    }  # fmt: skip


def test_a_published_file_is_foretold_and_told_what_it_really_is() -> None:
    """Qwen2.5-0.5B as Q4_K_M has 132 matrices in Q5_0 and 12 in Q4_K, 6.35 bits per weight."""
    spec = read_spec(qwen_0_5b())
    found = forecast(spec, "Q4_K_M", MIXES["Q4_K_M"], importance=True)
    stored = [item.stored for item in tensor_types(spec, MIXES["Q4_K_M"], importance=True).values()]
    assert stored.count(Type.Q5_0) == 132 and stored.count(Type.Q4_K) == 12
    assert found.bits_per_weight == pytest.approx(6.35, abs=0.01)
    assert "is really 6.35 bits per weight" in found.notes[1]
    assert "256 does not divide" in found.notes[1]


def test_ternary_schemes_say_what_they_are_for(tiny_llama_dir: Path) -> None:
    spec = open_source(str(tiny_llama_dir)).spec
    assert "ternary" in get_native("gguf-tq2_0").forecast(spec).notes[-1]
    assert not GgufFormat().reasons_against(spec, (), tiny_llama_dir)
