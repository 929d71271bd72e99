"""Importance from the calibration pass's file, and llama.cpp's imatrix file read back by gguf-py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader

from edgeport.errors import ArtifactError, UsageError
from edgeport.export.calibrate.state import write_arrays
from edgeport.export.native.gguf_imatrix import (
    ImatrixText,
    read_imatrix,
    read_importance,
    read_text,
    write_imatrix,
)
from edgeport.export.source import SourceModel, open_source

DOWN = "model.layers.1.mlp.down_proj.weight.second_moment"


@pytest.fixture(scope="module")
def source(tiny_llama_dir: Path) -> SourceModel:
    return open_source(str(tiny_llama_dir))


@pytest.fixture
def arrays(source: SourceModel) -> dict[str, npt.NDArray[np.float32]]:
    random = np.random.default_rng(3)
    return {
        f"{item.name}.second_moment": random.gamma(1.0, size=item.shape[1]).astype(np.float32)
        for item in source.spec.tensors()
        if item.role == "linear"
    }


def read(arrays: dict[str, npt.NDArray[np.float32]], source: SourceModel, folder: Path) -> dict[str, object]:
    write_arrays(folder / "statistics.safetensors", arrays)
    return dict(read_importance(folder / "statistics.safetensors", source.spec))


def test_every_linear_by_its_gguf_name(
    arrays: dict[str, npt.NDArray[np.float32]], source: SourceModel, tmp_path: Path
) -> None:
    found = read(arrays, source, tmp_path)
    assert len(found) == 2 * 7
    assert np.array_equal(found["blk.1.ffn_down.weight"], arrays[DOWN])  # type: ignore[arg-type]


def test_the_file_is_llama_cpps(
    arrays: dict[str, npt.NDArray[np.float32]], source: SourceModel, tmp_path: Path
) -> None:
    """tools/imatrix: sums over the tokens, and how many there were; their quotient is the mean."""
    write_arrays(tmp_path / "statistics.safetensors", arrays)
    importance = read_importance(tmp_path / "statistics.safetensors", source.spec)
    path = tmp_path / "imatrix.gguf"
    write_imatrix(path, importance, ImatrixText("code", 4, 128))
    reader = GGUFReader(path)
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["code"]
    assert reader.fields["imatrix.chunk_count"].contents() == 4
    assert reader.fields["imatrix.chunk_size"].contents() == 128
    assert "general.architecture" not in reader.fields
    tensors = {item.name: item for item in reader.tensors}
    sums, counts = tensors["blk.1.ffn_down.weight.in_sum2"], tensors["blk.1.ffn_down.weight.counts"]
    assert list(sums.shape) == [128, 1] and list(counts.shape) == [1, 1]  # ggml's order: columns first
    assert counts.data.item() == 512
    assert np.array_equal(np.array(sums.data).reshape(-1) / 512, arrays[DOWN])
    back = read_imatrix(path)
    assert back.keys() == importance.keys()
    assert all(np.array_equal(back[name], importance[name]) for name in back)
    assert not path.with_name("imatrix.gguf.part").exists()


def test_features_that_never_fired_keep_a_little_weight(
    arrays: dict[str, npt.NDArray[np.float32]], source: SourceModel, tmp_path: Path
) -> None:
    arrays[DOWN][:64] = 0
    arrays["model.layers.0.self_attn.o_proj.weight.second_moment"][:] = 0
    found = read(arrays, source, tmp_path)
    down = np.asarray(found["blk.1.ffn_down.weight"])
    assert (down[:64] > 0).all() and down[:64].max() < down.mean() * 1e-5
    assert np.array_equal(down[64:], arrays[DOWN][64:])
    assert (np.asarray(found["blk.0.attn_output.weight"]) == 1).all()


@pytest.mark.parametrize("damage", ["missing", "narrow", "infinite", "negative"])
def test_statistics_that_cannot_be_used(
    damage: str, arrays: dict[str, npt.NDArray[np.float32]], source: SourceModel, tmp_path: Path
) -> None:
    if damage == "missing":
        del arrays[DOWN]
    elif damage == "narrow":
        arrays[DOWN] = arrays[DOWN][:-1]
    else:
        arrays[DOWN][3] = np.inf if damage == "infinite" else -1
    with pytest.raises(UsageError, match="down_proj") as caught:
        read(arrays, source, tmp_path)
    assert caught.value.hint is not None


def test_a_model_is_no_imatrix(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUX" + bytes(60))
    with pytest.raises(ArtifactError, match="imatrix"):
        read_imatrix(tmp_path / "model.gguf")


def test_the_text_is_told_by_the_pass_that_read_it(tiny_llama_dir: Path, tmp_path: Path) -> None:
    from edgeport.export.calibrate.run import collect_statistics
    from edgeport.export.calibrate.text import CalibrationText
    from edgeport.export.source import open_source
    from edgeport.progress import NO_PROGRESS

    text = CalibrationText(np.zeros((3, 16), dtype=np.int64), "zeros", "zeros")
    source = open_source(str(tiny_llama_dir))
    statistics = collect_statistics(source, text, tmp_path, threads=1, progress=NO_PROGRESS)
    assert read_text(statistics) == ImatrixText(windows=3, n_ctx=16)
