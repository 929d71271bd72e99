"""GGUF in llama.cpp's own schemes: written, read back, held to golden answers; and the faults that must be found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import ArtifactError, GateFailure, UsageError
from edgeport.export.calibrate.state import write_arrays
from edgeport.export.checkpoint import Checkpoint
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.table import get_format
from edgeport.export.native.gguf_imatrix import read_imatrix
from edgeport.export.native.table import get_native
from edgeport.export.quantize.run import quantize
from edgeport.export.recipe import load_recipe
from edgeport.export.source import SourceModel, open_source
from edgeport.export.verify.artifact import WEIGHTS_NAME, Verification, verify_artifact
from edgeport.export.verify.gguf_header import read_header
from edgeport.export.verify.golden import compute_golden, write_golden
from edgeport.export.verify.native import native_identity
from edgeport.manifest import (
    ContainerEntry,
    Manifest,
    ModelFacts,
    file_entry,
    read_manifest,
    write_manifest,
)
from edgeport.progress import NO_PROGRESS
from edgeport.runtimes.artifact import choose
from edgeport.runtimes.container import find_containers

REFERENCE = Path(__file__).resolve().parents[2] / "models" / "reference"
NAME = "gguf-q4_k_m"
FACTS = ModelFacts("llama", 1000, 1, 8, 16, 1, 1, 8, 32, 64, True, 16.0, 32)
Damage = Callable[[Path], None]


def statistics_of(source: SourceModel, path: Path) -> Path:
    """Made-up importance; 256 features of the first layer never fired, which must not cost their weights."""
    random = np.random.default_rng(7)
    linears = [item for item in source.spec.tensors() if item.role == "linear"]
    moments = {f"{item.name}.second_moment": random.gamma(1.0, size=item.shape[1]) for item in linears}
    moments["model.layers.0.mlp.down_proj.weight.second_moment"][:256] = 0
    write_arrays(path, {name: values.astype(np.float32) for name, values in moments.items()})
    return path


def add_native(source: SourceModel, artifact: Path, statistics: Path | None) -> ContainerEntry:
    folder = artifact / NAME
    folder.mkdir()
    options = WriteOptions(source.name, 256, NO_PROGRESS)
    path = get_native(NAME).write(source, statistics, folder, options)
    identity = native_identity(NAME, path, source, artifact, NO_PROGRESS)
    assert 0 < max(identity.relative_errors.values()) < 0.12
    return entry_of(NAME, path, artifact, identity.weights_id)


def entry_of(name: str, path: Path, artifact: Path, weights_id: str) -> ContainerEntry:
    files = tuple(
        file_entry(item, artifact) for item in sorted((artifact / name).rglob("*")) if item.is_file()
    )
    size_bytes = sum(item.size_bytes for item in files)
    return ContainerEntry(name, path.relative_to(artifact).as_posix(), files, size_bytes, weights_id)


def finish(source: SourceModel, artifact: Path, weights_id: str, *entries: ContainerEntry) -> Path:
    write_manifest(
        Manifest("m", "2026-01-01", source.facts(), {}, "edge", FACTS, weights_id, entries), artifact
    )
    return artifact


@pytest.fixture(scope="module")
def reference_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference model as Q4_K_M with an imatrix, and nothing else."""
    source, folder = open_source(str(REFERENCE)), tmp_path_factory.mktemp("native-only")
    statistics = statistics_of(source, folder / "statistics.safetensors")
    artifact = folder / "artifact"
    artifact.mkdir()
    return finish(source, artifact, "", add_native(source, artifact, statistics))


@pytest.fixture(scope="module")
def mixed_artifact(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A portable container and a native one of the same model; here every K-quant falls back."""
    source, folder = open_source(str(tiny_llama_dir)), tmp_path_factory.mktemp("mixed")
    (folder / "checkpoint").mkdir()
    quantize(
        source,
        replace(load_recipe("int4"), solver="rtn"),
        folder / "checkpoint",
        threads=1,
        progress=NO_PROGRESS,
    )
    checkpoint = Checkpoint(folder / "checkpoint", source.spec)
    artifact = folder / "artifact"
    options = WriteOptions("tiny", 256, NO_PROGRESS)
    entries = []
    for name in ("gguf", "safetensors"):
        (artifact / name).mkdir(parents=True)
        path = get_format(name).write(checkpoint, artifact / name, options)
        entry = path / "config.json" if path.is_dir() else path
        entries.append(entry_of(name, entry, artifact, checkpoint.weights_id))
    digests = {record.name: record.digest for record in checkpoint.records}
    (artifact / WEIGHTS_NAME).write_text(json.dumps(digests))
    write_golden(compute_golden(artifact / "safetensors"), artifact)
    native = add_native(source, artifact, None)
    return finish(source, artifact, checkpoint.weights_id, entries[0], native)


def failures(verification: Verification) -> dict[str, str]:
    return {
        f"{check.container} {check.name}": check.detail for check in verification.checks if not check.passed
    }


def test_a_native_container_alone_verifies(reference_artifact: Path) -> None:
    verification = verify_artifact(reference_artifact, progress=NO_PROGRESS)
    assert verification.passed, failures(verification)
    assert {check.container for check in verification.checks} == {NAME}
    assert sorted(path.name for path in (reference_artifact / NAME).iterdir()) == [
        "calibration",
        "reference-Q4_K_M.gguf",
    ]


def test_the_imatrix_lies_beside_the_model_and_was_used(reference_artifact: Path, tmp_path: Path) -> None:
    (path,) = (reference_artifact / NAME).glob("*.gguf")
    assert len(read_imatrix(path.parent / "calibration" / "imatrix.gguf")) == 6 * 7
    metadata = read_header(path).metadata
    assert metadata["general.file_type"] == 15 and metadata["quantize.imatrix.entries_count"] == 42
    assert metadata["edgeport.weights_id"] == "" and "with imatrix" in metadata["edgeport.schemes"]
    source = open_source(str(REFERENCE))
    options = WriteOptions("m", 256, NO_PROGRESS)
    plain = get_native(NAME).write(source, None, tmp_path, options)
    with_imatrix, without = read_header(path), read_header(plain)
    different = [
        left.name
        for left, right in zip(with_imatrix.tensors, without.tensors, strict=True)
        if stored(path, left.start, left.stop) != stored(plain, right.start, right.stop)
    ]
    assert len(different) == 42 and "token_embd.weight" not in different


def stored(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(stop - start)


def test_portable_and_native_together(mixed_artifact: Path) -> None:
    verification = verify_artifact(mixed_artifact, progress=NO_PROGRESS)
    assert verification.passed, failures(verification)
    assert {check.container for check in verification.checks} == {"artifact", "gguf", NAME}
    containers = find_containers(mixed_artifact)
    assert choose(containers, None)[0].format == "gguf"
    assert choose(containers, NAME)[0].path.suffix == ".gguf"
    (folder,) = find_containers(mixed_artifact / NAME)
    assert folder.format == NAME


def swap_tensors(path: Path) -> None:
    """Two matrices of the same shape and type change places."""
    tensors = {info.name: info for info in read_header(path).tensors}
    first, second = (
        tensors["blk.0.ffn_gate.weight"],
        tensors["blk.0.ffn_up.weight"],
    )
    left, right = stored(path, first.start, first.stop), stored(path, second.start, second.stop)
    with path.open("r+b") as stream:
        stream.seek(first.start)
        stream.write(right)
        stream.seek(second.start)
        stream.write(left)


def flip_bit(path: Path) -> None:
    info = next(info for info in read_header(path).tensors if info.name == "blk.1.attn_q.weight")
    with path.open("r+b") as stream:
        stream.seek(info.start + 100)
        value = stream.read(1)[0]
        stream.seek(info.start + 100)
        stream.write(bytes([value ^ 8]))


def mend(artifact: Path) -> None:
    """Bring sizes and sha256 in the manifest up to date, as a careful forger would."""
    manifest = read_manifest(artifact)
    entries = tuple(
        entry_of(item.format, artifact / item.entry_point, artifact, item.weights_id)
        for item in manifest.containers
    )
    write_manifest(replace(manifest, containers=entries), artifact)


@pytest.mark.parametrize("damage", [flip_bit, swap_tensors])
def test_damage_under_mended_checksums(damage: Damage, mixed_artifact: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    shutil.copytree(mixed_artifact, artifact)
    (path,) = (artifact / NAME).glob("*.gguf")
    damage(path)
    mend(artifact)
    found = failures(verify_artifact(artifact, formats=[NAME], progress=NO_PROGRESS))
    assert "different weights" in found[f"{NAME} weights"]
    if damage is swap_tensors:
        assert "logits differ" in found[f"{NAME} logits"]


def test_digests_of_another_file(mixed_artifact: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    shutil.copytree(mixed_artifact, artifact)
    (artifact / f"weights-{NAME}.json").unlink()
    (artifact / f"golden-{NAME}.json").unlink()
    found = failures(verify_artifact(artifact, formats=[NAME], progress=NO_PROGRESS))
    assert found.keys() == {f"{NAME} {name}" for name in ("weights", "tokens", "logits", "shipped")}


def test_swapped_tensors_get_no_identity(mixed_artifact: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    shutil.copytree(mixed_artifact, artifact)
    (path,) = (artifact / NAME).glob("*.gguf")
    swap_tensors(path)
    before = (artifact / f"weights-{NAME}.json").read_bytes()
    with pytest.raises(GateFailure, match=r"mlp\.(gate|up)_proj\.weight: row \d+ is off"):
        native_identity(NAME, path, open_source(str(tiny_llama_dir)), artifact, NO_PROGRESS)
    assert (artifact / f"weights-{NAME}.json").read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["artifact"]


def test_a_damaged_file_gets_no_identity(mixed_artifact: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    (whole,) = (mixed_artifact / NAME).glob("*.gguf")
    path.write_bytes(whole.read_bytes()[:-4096])
    (tmp_path / "artifact").mkdir()
    with pytest.raises(ArtifactError, match="damaged"):
        native_identity(NAME, path, open_source(str(tiny_llama_dir)), tmp_path / "artifact", NO_PROGRESS)


def test_what_needs_statistics_refuses_without(tiny_llama_dir: Path, tmp_path: Path) -> None:
    source = open_source(str(tiny_llama_dir))
    with pytest.raises(UsageError, match="needs the statistics") as caught:
        get_native("gguf-q2_k_s").write(source, None, tmp_path, WriteOptions("m", 256, NO_PROGRESS))
    assert caught.value.hint is not None and not list(tmp_path.iterdir())
