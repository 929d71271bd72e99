"""Predicted bytes against files that our writers, llama.cpp and others made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgeport.devices.gguf_header import read_gguf_header
from edgeport.devices.gguf_shape import shape_from_gguf
from edgeport.devices.known_models import load_known
from edgeport.devices.open_shape import open_shape
from edgeport.devices.safetensors_header import read_safetensors_folder
from edgeport.devices.shape import ModelShape
from edgeport.devices.weights import FORMATS, STORED, precisions, weights_bytes
from edgeport.errors import UsageError

REFERENCE = Path(__file__).parents[3] / "models" / "reference"
GIB, GB = 2**30, 10**9
MODEL_FILES = {"gguf": "*.gguf", "onnx": "model.onnx*", "openvino": "openvino_model.*", "safetensors": "*.safetensors"}  # fmt: skip
Packed = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """packed("int4", "onnx") -> the folder our writer made of the reference model."""
    from edgeport.export.checkpoint import Checkpoint
    from edgeport.export.formats.base import WriteOptions
    from edgeport.export.formats.table import get_format
    from edgeport.export.quantize.run import quantize
    from edgeport.export.recipe import load_recipe
    from edgeport.export.source import open_source
    from edgeport.progress import NO_PROGRESS

    root, source = tmp_path_factory.mktemp("packed"), open_source(str(REFERENCE))

    def pack(precision: str, format_name: str) -> Path:
        checkpoint = root / precision
        if not checkpoint.is_dir():
            checkpoint.mkdir()
            recipe = replace(load_recipe(precision), solver="rtn")
            quantize(source, recipe, checkpoint, threads=1, progress=NO_PROGRESS)
        folder = root / f"{precision}-{format_name}"
        folder.mkdir()
        options = WriteOptions("reference", 512, NO_PROGRESS)
        get_format(format_name).write(Checkpoint(checkpoint, source.spec), folder, options)
        return folder

    return pack


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize(
    "precision",
    ["int4", pytest.param("int8", marks=pytest.mark.slow), pytest.param("f16", marks=pytest.mark.slow)],
)
def test_our_files_are_as_large_as_predicted(precision: str, format_name: str, packed: Packed) -> None:
    folder = packed(precision, format_name)
    shape = open_shape(str(REFERENCE / "config.json"))
    found = weights_bytes(shape, precision, format_name)
    on_disk = sum(path.stat().st_size for path in folder.glob(MODEL_FILES[format_name]))
    assert found.file_bytes == pytest.approx(on_disk, rel=0.005)
    if format_name == "gguf":
        header = read_gguf_header(next(folder.glob("*.gguf")))
        assert found.size_bytes == sum(tensor.size_bytes for tensor in header.tensors)
        stored = shape_from_gguf(next(folder.glob("*.gguf")))
        assert weights_bytes(stored, STORED, "gguf").size_bytes == found.size_bytes
        assert weights_bytes(stored, STORED, "gguf").head_bytes == 0
    if format_name == "safetensors":
        assert found.size_bytes == sum(tensor.size_bytes for tensor in read_safetensors_folder(folder))
        again = weights_bytes(open_shape(str(folder)), STORED, "safetensors")
        # a packed matrix's two sizes are no bits of its weights
        assert again.size_bytes == pytest.approx(found.size_bytes, abs=16 * len(shape.tensors))


@pytest.mark.parametrize("precision", ["q4_k_m"])
def test_llama_cpps_own_files_are_as_large_as_predicted(precision: str, tmp_path: Path) -> None:
    from edgeport.export.formats.base import WriteOptions
    from edgeport.export.native.table import get_native
    from edgeport.export.source import open_source
    from edgeport.progress import NO_PROGRESS

    source = open_source(str(REFERENCE))
    path = get_native(f"gguf-{precision}").write(source, None, tmp_path, WriteOptions("r", 512, NO_PROGRESS))
    found = weights_bytes(open_shape(str(REFERENCE / "config.json")), precision, "gguf")
    assert found.size_bytes == sum(tensor.size_bytes for tensor in read_gguf_header(path).tensors)


@pytest.mark.parametrize("model", ["smollm2-135m", "qwen2.5-0.5b", "llama-3.1-8b", "llama-3.1-70b"])
@pytest.mark.parametrize(
    "precision", ["q2_k", "q3_k_m", "q4_0", "iq4_xs", "q4_k_s", "q4_k_m", "q5_k_m", "q6_k", "q8_0"]
)
def test_types_are_those_the_exporter_forecasts(model: str, precision: str) -> None:
    """The exporter's own table of llama.cpp's rules is compared with files in its tests; rows of 576 and 896 fall back."""
    from edgeport.devices.known_models import read_known
    from edgeport.export.families.table import read_spec
    from edgeport.export.native.gguf_mix import MIXES, tensor_types

    config = dict(read_known(model)["config"])
    architecture = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[config["model_type"]]
    spec = read_spec(config | {"architectures": [architecture], "rms_norm_eps": 1e-5})
    types = tensor_types(spec, MIXES[precision.upper()], importance=False)
    expected = sum(item.size_bytes for item in types.values())
    assert weights_bytes(load_known(model), precision, "gguf").size_bytes == expected


# Llama: llama.cpp, tools/perplexity/README.md and tools/quantize/README.md. Others: the files' sizes on the hub, in GB
# (bartowski/gemma-2-2b-it-GGUF, Qwen/Qwen3-30B-A3B-GGUF, bartowski/phi-4-GGUF, bartowski/Phi-3-mini-4k-instruct-GGUF).
PUBLISHED = [
    ("llama-3-8b", "q8_0", 7.96 * GIB), ("llama-3-8b", "q6_k", 6.14 * GIB), ("llama-3-8b", "q5_k_m", 5.33 * GIB),
    ("llama-3-8b", "q4_k_m", 4.58 * GIB), ("llama-3-8b", "q4_k_s", 4.37 * GIB), ("llama-3-8b", "q4_0", 4.34 * GIB),
    ("llama-3-8b", "f16", 14.97 * GIB), ("llama-2-7b", "q4_0", 3.56 * GIB), ("gemma-2-2b", "q4_k_m", 1.71 * GB),
    ("qwen3-30b-a3b", "q4_k_m", 18.56 * GB), ("phi-4-14b", "q4_k_m", 9.05 * GB), ("phi-3-mini-4k", "q4_k_m", 2.39 * GB),
]  # fmt: skip


@pytest.mark.parametrize(("model", "precision", "size_bytes"), PUBLISHED)
def test_published_files(model: str, precision: str, size_bytes: float) -> None:
    assert weights_bytes(load_known(model), precision, "gguf").file_bytes == pytest.approx(
        size_bytes, rel=0.005
    )


def test_safetensors_in_16_bits_are_what_publishers_ship() -> None:
    """model.safetensors of Qwen/Qwen2.5-0.5B: 988,097,824 bytes, norms and biases in 16 bits too."""
    found = weights_bytes(load_known("qwen2.5-0.5b"), "bf16", "safetensors")
    assert found.size_bytes == pytest.approx(988_097_824, rel=0.0005)


@pytest.mark.parametrize("format_name", FORMATS)
def test_more_bits_take_more(format_name: str) -> None:
    shape = load_known("smollm2-135m")
    sizes = [weights_bytes(shape, name, format_name).size_bytes for name in ("int4", "int8", "f16", "f32")]
    assert sizes == sorted(sizes) and len(set(sizes)) == 4
    found = weights_bytes(shape, "int8", "onnx")
    assert found.bits_per_weight == pytest.approx(8.5, abs=0.05)


def test_parts_are_told_apart() -> None:
    untied: ModelShape = load_known("llama-3.1-8b")
    found = weights_bytes(untied, "int4", "gguf")
    assert found.head_bytes == found.embedding_bytes == 128256 * 4096 * 34 // 32
    assert found.linear_bytes == untied.parameters_of(["linear"]) * 18 // 32
    assert found.size_bytes == found.linear_bytes + 2 * found.head_bytes + found.other_bytes


def test_what_a_format_cannot_hold_is_refused() -> None:
    shape = load_known("gpt2")
    with pytest.raises(UsageError, match="onnx holds no 'q4_k_m'"):
        weights_bytes(shape, "q4_k_m", "onnx")
    with pytest.raises(UsageError, match="gguf holds no 'int2'"):
        weights_bytes(shape, "int2", "gguf")
    with pytest.raises(UsageError, match="unknown format 'ggml', did you mean 'gguf'"):
        weights_bytes(shape, "int4", "ggml")
    with pytest.raises(UsageError, match="no file says"):
        weights_bytes(shape, STORED, "gguf")
    assert "q4_k_m" in precisions("gguf") and "q4_k_m" not in precisions("openvino")
