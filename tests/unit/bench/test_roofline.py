"""Roofline numbers worked out by hand, and tensor lists against each format's own reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import ArtifactError
from edgeport.manifest import read_manifest
from edgeport.runtimes.bench.roofline import mean_cache_entries, roofline
from edgeport.runtimes.bench.weights import StoredTensor, bytes_read_per_token, read_tensors

MIB = 2**20


def test_share_by_hand() -> None:
    # 300 MB of weights and 1 MB of cache at 50 tokens/s are 15.05 GB/s, of 30.1 GB/s one half
    found = roofline(300_000_000, 1_000_000, 50.0, bandwidth_bytes_per_s=30.1e9, cache_bytes=32 * MIB)
    assert found.bytes_per_token == 301_000_000
    assert found.used_bytes_per_s == pytest.approx(15.05e9)
    assert found.share == pytest.approx(0.5)
    assert str(found) == "50%"


def test_a_model_in_the_cache_has_no_share() -> None:
    found = roofline(4 * MIB, 0, 1000.0, bandwidth_bytes_per_s=1e9, cache_bytes=32 * MIB)
    assert (found.share, str(found)) == (None, "cache-resident")


def test_unknown_bandwidth_has_no_share() -> None:
    found = roofline(400 * MIB, 0, 10.0, bandwidth_bytes_per_s=None, cache_bytes=None)
    assert (found.share, str(found)) == (None, "unavailable")


def test_mean_depth_of_a_run() -> None:
    # tokens 1..4 see 1, 2, 3 and 4 entries
    assert mean_cache_entries(4) == pytest.approx(np.mean([1, 2, 3, 4]))
    assert mean_cache_entries(4, n_depth=100) == pytest.approx(102.5)


def test_lookup_tables_are_not_read_in_full() -> None:
    linear = StoredTensor("model.layers.0.mlp.up_proj.weight", 1000, "w@0")
    embedding, scales = (
        StoredTensor("model.embed_tokens.weight_codes", 800, "w@1000"),
        StoredTensor("model.embed_tokens.weight_scales", 50, "w@1800"),
    )
    rotary = StoredTensor("cos_cache", 300, "w@1850")
    assert bytes_read_per_token([linear, embedding, scales, rotary]) == 1850  # the embedding is the head
    head = StoredTensor("lm_head.weight_codes", 800, "w@5000")
    assert bytes_read_per_token([linear, embedding, scales, rotary, head]) == 1800  # it has its own
    alias = StoredTensor("lm_head.weight_codes", 800, "w@1000")
    assert bytes_read_per_token([linear, embedding, scales, rotary, alias]) == 1850  # one piece of memory


def test_gguf_tensors_equal_ggufs_own_reader(packed_dir: Path) -> None:
    import gguf

    path = packed_dir / read_manifest(packed_dir).container("gguf").entry_point
    expected = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors}
    found = {tensor.name: tensor.size_bytes for tensor in read_tensors("gguf", path)}
    assert found.keys() == expected.keys()
    assert all(0 <= found[name] - expected[name] < 32 for name in expected)  # padding counts


def test_onnx_tensors_equal_onnxs_own_reader(packed_dir: Path) -> None:
    import onnx

    path = packed_dir / "onnx" / "model.onnx"
    expected = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        external = {item.key: item.value for item in tensor.external_data}
        expected[tensor.name] = int(external["length"]) if external else len(tensor.raw_data)
    assert {tensor.name: tensor.size_bytes for tensor in read_tensors("onnx", path)} == expected


def test_openvino_tensors_equal_openvinos_own_reader(packed_dir: Path) -> None:
    import openvino

    path = packed_dir / "openvino" / "openvino_model.xml"
    constants = [
        node for node in openvino.Core().read_model(path).get_ops() if node.get_type_name() == "Constant"
    ]
    found = read_tensors("openvino", path)
    assert sum(tensor.size_bytes for tensor in found) == sum(node.get_byte_size() for node in constants)


def test_safetensors_equal_their_files(packed_dir: Path) -> None:
    folder = packed_dir / "safetensors"
    found = read_tensors("safetensors", folder)
    payload = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert 0 < payload - sum(tensor.size_bytes for tensor in found) < 20_000  # the header
    assert read_tensors("safetensors", folder / "config.json") == found


def test_containers_of_one_model_read_about_the_same(packed_dir: Path) -> None:
    """The same INT4 and INT8 blocks everywhere: scale types differ, payloads do not."""
    manifest = read_manifest(packed_dir)
    read = {
        entry.format: bytes_read_per_token(read_tensors(entry.format, packed_dir / entry.entry_point))
        for entry in manifest.containers
        if entry.format != "safetensors"  # keeps a tied embedding in 16 bits
    }
    assert max(read.values()) < 1.1 * min(read.values()), read


@pytest.mark.parametrize("format_name", ["gguf", "onnx", "openvino", "safetensors"])
def test_a_damaged_header_is_an_artifact_error(tmp_path: Path, format_name: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x99" * 5000)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_tensors(format_name, path)


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="tflite"):
        read_tensors("tflite", tmp_path)
