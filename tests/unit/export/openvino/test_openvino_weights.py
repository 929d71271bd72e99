"""Weights read back from the IR equal the checkpoint's; damage to a container is found and named."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.errors import ArtifactError
from edgeport.export.checkpoint import Checkpoint, tensor_digest, weights_id
from edgeport.export.verify.openvino_values import evaluate
from edgeport.export.verify.read_openvino import read_weights

CASES: dict[str, dict[str, Any]] = {
    "llama-tied-int4-g32": {"linear": "int4-g32", "table": "int8-g32"},
    "llama-untied-int4-g64": {"linear": "int4-g64", "table": "int4-g64"},
    "qwen2-untied-int2": {"linear": "int2-g32", "table": "int8-g32", "o_proj": "int4-g32"},
    "llama-tied-int2-g64": {"linear": "int2-g64", "table": "int2-g32"},
    "qwen2-tied-int4-g128": {"linear": "int4-g128", "table": "f16"},
    "qwen2-untied-int8": {"linear": "int8-g32", "table": "int8-g32"},
    "llama-untied-bf16": {"linear": "bf16", "table": "bf16"},
    "qwen2-tied-f16": {"linear": "f16", "table": "f16"},
    "llama-tied-f32": {"linear": "f32", "table": "f32"},
    "qwen2-untied-mixed": {
        "linear": "int4-g32",
        "table": "bf16",
        "down_proj": "int8-g64",
        "k_proj": "f16",
        "o_proj": "f32",
    },
}
CHANGES: dict[str, dict[str, Any]] = {
    "llama-untied-int4-g64": {"attention_bias": True, "mlp_bias": True},
    "llama-tied-f32": {"num_key_value_heads": 4},
    "qwen2-tied-f16": {"num_key_value_heads": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_weights_read_back_equal_the_checkpoint(
    case: str,
    make_source: Callable[..., Path],
    make_checkpoint: Callable[..., Checkpoint],
    write_weights: Callable[..., Path],
) -> None:
    family, tied = case.split("-")[0], case.split("-")[1] == "tied"
    source = make_source(family, tied=tied, **{"hidden_size": 128, "head_dim": 32, **CHANGES.get(case, {})})
    checkpoint = make_checkpoint(source, **CASES[case])
    found = dict(read_weights(write_weights(checkpoint)))
    assert set(found) == set(checkpoint.names())
    assert ("lm_head.weight" in found) is not tied
    for name, values in found.items():
        np.testing.assert_array_equal(values, checkpoint.tensor(name).dequantize(), err_msg=name)
    assert (
        weights_id({name: tensor_digest(values) for name, values in found.items()}) == checkpoint.weights_id
    )


def test_file_is_as_small_as_the_checkpoint(int4_checkpoint: Checkpoint, int4_container: Path) -> None:
    weights = (int4_container / "openvino_model.bin").stat().st_size
    # What is not codes and scales: norms are in both, shapes and masks are a few bytes per node.
    assert weights < int4_checkpoint.size_bytes() + 8192


@pytest.fixture
def damaged(int4_container: Path, tmp_path: Path) -> Path:
    """A copy of the container that a test may damage."""
    for name in ("openvino_model.xml", "openvino_model.bin"):
        shutil.copyfile(int4_container / name, tmp_path / name)
    return tmp_path


def _different(directory: Path, checkpoint: Checkpoint) -> list[str]:
    return [
        name
        for name, values in read_weights(directory)
        if not np.array_equal(values, checkpoint.tensor(name).dequantize())
    ]


def _extent(directory: Path, name: str) -> tuple[int, int]:
    """Offset and size of a constant in the .bin file."""
    text = (directory / "openvino_model.xml").read_text()
    found = re.search(
        rf'name="{re.escape(name)}" type="Const".*?offset="(\d+)" size="(\d+)"', text, re.DOTALL
    )
    assert found is not None
    return int(found.group(1)), int(found.group(2))


@pytest.mark.parametrize(
    "constant", ["model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight/scale"]
)
def test_one_flipped_bit_is_found_in_its_tensor(
    damaged: Path, int4_checkpoint: Checkpoint, constant: str
) -> None:
    offset, size = _extent(damaged, constant)
    content = bytearray((damaged / "openvino_model.bin").read_bytes())
    content[offset + size // 2] ^= 0x10
    (damaged / "openvino_model.bin").write_bytes(content)
    assert _different(damaged, int4_checkpoint) == [constant.removesuffix("/scale")]


def test_matmul_on_another_tensor_than_its_name_says(damaged: Path, int4_checkpoint: Checkpoint) -> None:
    gate, up = (f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up"))
    text = (damaged / "openvino_model.xml").read_text()
    # Both constants change places under the same names: the names still read right, the products do not.
    layer = {name: re.search(rf'<layer id="(\d+)" name="{re.escape(name)}"', text) for name in (gate, up)}
    first, second = (found.group(1) for found in layer.values() if found is not None)
    text = text.replace(f'from-layer="{first}"', 'from-layer="#"').replace(
        f'from-layer="{second}"', f'from-layer="{first}"'
    )
    (damaged / "openvino_model.xml").write_text(text.replace('from-layer="#"', f'from-layer="{second}"'))
    assert sorted(_different(damaged, int4_checkpoint)) == [gate, up]


def test_truncated_weights_name_file_and_tensor(damaged: Path) -> None:
    offset, size = _extent(damaged, "model.layers.1.mlp.down_proj.weight")
    content = (damaged / "openvino_model.bin").read_bytes()
    (damaged / "openvino_model.bin").write_bytes(content[: offset + size - 1])
    with pytest.raises(
        ArtifactError, match=r"openvino_model\.bin: tensor model\.layers\.1\.mlp\.down_proj\.weight"
    ):
        list(read_weights(damaged))


def test_truncated_graph_is_refused(damaged: Path) -> None:
    text = (damaged / "openvino_model.xml").read_text()
    (damaged / "openvino_model.xml").write_text(text[: len(text) // 2])
    with pytest.raises(ArtifactError, match=r"openvino_model\.xml is damaged"):
        list(read_weights(damaged / "openvino_model.xml"))


@pytest.mark.parametrize("name", ["openvino_model.xml", "openvino_model.bin"])
def test_missing_file_is_named(damaged: Path, name: str) -> None:
    (damaged / name).unlink()
    with pytest.raises(ArtifactError, match=f"{re.escape(name)} is missing"):
        list(read_weights(damaged))


def test_graph_that_is_no_decoder_is_refused(tmp_path: Path, int4_container: Path) -> None:
    for suffix in ("xml", "bin"):
        shutil.copyfile(int4_container / f"openvino_model.{suffix}", tmp_path / f"openvino_model.{suffix}")
    text = (tmp_path / "openvino_model.xml").read_text()
    (tmp_path / "openvino_model.xml").write_text(text.replace('type="Gather"', 'type="Unknown"'))
    with pytest.raises(ArtifactError, match="cannot be read by OpenVINO"):
        list(read_weights(tmp_path))


def test_float16_arithmetic_rounds_as_the_graph_says() -> None:
    """Every float16, its float32 neighbours, subnormals and overflow through a Multiply in float16."""
    import openvino as ov
    from openvino import opset13 as ops

    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = halves[np.isfinite(halves)]
    values = np.concatenate(
        [halves, np.nextafter(halves, np.float32(np.inf)), halves * np.float32(1e-5), halves * 3]
    )
    constant = ops.convert(ops.constant(values), ov.Type.f16)
    product = ops.multiply(constant, ops.constant(np.float16(1.5)))
    with np.errstate(over="ignore"):
        expected = (values.astype(np.float16) * np.float16(1.5)).astype(np.float32)
    np.testing.assert_array_equal(evaluate(product, "test"), expected)
