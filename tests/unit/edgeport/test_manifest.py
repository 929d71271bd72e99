"""The manifest: what is written reads back the same, and damage is named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from edgeport.errors import ArtifactError
from edgeport.manifest import (
    ContainerEntry,
    FileEntry,
    Manifest,
    ModelFacts,
    SourceFacts,
    file_entry,
    read_manifest,
    write_manifest,
)

MANIFEST = Manifest(
    name="m-edge",
    created="2026-01-01T00:00:00Z",
    source=SourceFacts("m", "00" * 32, 2_000_000, "bf16"),
    recipe={"name": "int4", "overrides": {"*": "int8-g32"}},
    device="edge",
    model=ModelFacts("llama", 1_000_000, 2, 64, 128, 4, 2, 16, 512, 256, True, 4.5, 256),
    weights_id="ab" * 32,
    containers=(
        ContainerEntry("gguf", "gguf/m.gguf", (FileEntry("gguf/m.gguf", 3, "cd" * 32),), 3, "ab" * 32, True),
    ),
    quality={"gguf": {"perplexity": 12.5}},
)


def test_round_trip(tmp_path: Path) -> None:
    write_manifest(MANIFEST, tmp_path)
    assert read_manifest(tmp_path) == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def damage(document: dict[str, Any], *path: Any, value: Any = None) -> dict[str, Any]:
    """Set the value at `path`, or delete it when None."""
    *parents, last = path
    target: Any = document
    for key in parents:
        target = target[key]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 2, "schema_version 2, this edgeport reads 1"),
        (("weights_id",), None, "Manifest.weights_id is missing"),
        (("model", "layers"), "two", "expected int, got 'two'"),
        (("model", "color"), "red", "unknown keys in ModelFacts: color"),
        (("containers",), {}, "expected a list, got dict"),
        (("containers", 0, "files", 0, "sha256"), None, "FileEntry.sha256 is missing"),
        (("source",), "m", "expected an object for SourceFacts"),
    ],
)
def test_damage_is_named(tmp_path: Path, path: tuple[Any, ...], value: Any, message: str) -> None:
    file = write_manifest(MANIFEST, tmp_path)
    file.write_text(json.dumps(damage(json.loads(file.read_text()), *path, value=value)))
    with pytest.raises(ArtifactError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '"text"'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError):
        read_manifest(tmp_path)


def test_a_missing_manifest_and_a_missing_container_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no manifest\.json") as caught:
        read_manifest(tmp_path)
    assert caught.value.hint
    with pytest.raises(ArtifactError, match="has no container 'onnx'") as caught:
        MANIFEST.container("onnx")
    assert caught.value.hint == "it holds: gguf"


def test_file_entry_is_size_and_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.bin").write_bytes(b"x" * 5_000_000)
    digest = hashlib.sha256(b"x" * 5_000_000).hexdigest()
    assert file_entry(tmp_path / "a" / "b.bin", tmp_path) == FileEntry("a/b.bin", 5_000_000, digest)
