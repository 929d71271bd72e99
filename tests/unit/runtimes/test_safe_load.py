"""A file is loaded in a child first, once; what is damaged is named and nobody dies but the child."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeport.errors import ArtifactError, UsageError
from edgeport.manifest import ContainerEntry, Manifest, ModelFacts, SourceFacts, file_entry
from edgeport.runtimes import load_records, safe_load
from edgeport.runtimes.container import Container, find_containers
from edgeport.runtimes.container_files import container_files
from edgeport.runtimes.isolation import run_isolated
from edgeport.runtimes.safe_load import check_load


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEPORT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The formats that were loaded in a child, as it happens."""
    seen: list[str] = []

    def count(target: str, arguments: dict[str, Any], **options: Any) -> Any:
        seen.append(arguments["format_name"])
        return run_isolated(target, arguments, **options)

    monkeypatch.setattr(safe_load, "run_isolated", count)
    return seen


def copied(packed_dir: Path, kind: str, tmp_path: Path, *, listed: bool = False) -> Container:
    """A container of its own, with a manifest that lists its files when `listed`."""
    folder = Path(shutil.copytree(packed_dir / kind, tmp_path / "artifact" / kind))
    (container,) = find_containers(folder)
    if not listed:
        return container
    files = tuple(file_entry(file, folder.parent) for file in sorted(folder.iterdir()))
    facts = ModelFacts("qwen2", 1, 1, 64, 128, 4, 2, 16, 512, 256, False, 4.5, 128)
    entry = ContainerEntry(kind, f"{kind}/x", files, 0, "id")
    source = SourceFacts("s", "f", 1, "bf16")
    return replace(container, manifest=Manifest("tiny", "now", source, {}, "edge", facts, "id", (entry,)))


def place_of(file: Path, tensor: str) -> tuple[int, int]:
    """Where a tensor's bytes begin and end in a safetensors file."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    begin, end = json.loads(content[8 : 8 + size])[tensor]["data_offsets"]
    return 8 + size + begin, 8 + size + end


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 0x10
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["gguf", "onnx", "openvino", "safetensors"])
def test_a_file_is_loaded_in_a_child_once(
    packed_dir: Path, tmp_path: Path, children: list[str], kind: str
) -> None:
    container = copied(packed_dir, kind, tmp_path)
    for _ in range(3):
        check_load(container)
    assert children == [kind]
    check_load(copied(packed_dir, kind, tmp_path / "elsewhere"))
    assert children == [kind], "the contents are known, wherever they lie"
    check_load(container, "always")
    assert children == [kind, kind]
    check_load(container, "never")
    assert children == [kind, kind]


def test_new_contents_and_new_engines_are_unknown_and_a_new_date_is_not(
    packed_dir: Path, tmp_path: Path, children: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    container = copied(packed_dir, "safetensors", tmp_path)
    check_load(container)
    os.utime(container.folder / "model.safetensors", (1, 1))
    check_load(container)
    assert len(children) == 1
    weights = container.folder / "model.safetensors"
    flip(weights, place_of(weights, "model.norm.weight")[0])  # the lowest bits of one number: it still loads
    check_load(container)
    assert len(children) == 2
    monkeypatch.setattr(safe_load, "_engine_version", lambda _: "the next one")
    check_load(container)
    assert len(children) == 3
    load_records.forget_loads()
    check_load(container)
    assert len(children) == 4


@pytest.mark.parametrize("kind", ["gguf", "onnx", "openvino", "safetensors"])
def test_one_flipped_bit_in_the_weights_of_an_artifact_is_seen(
    packed_dir: Path, tmp_path: Path, kind: str
) -> None:
    container = copied(packed_dir, kind, tmp_path, listed=True)
    check_load(container)
    heaviest = max(container_files(container), key=lambda file: file.stat().st_size)
    if kind == "openvino":
        heaviest = container.folder / "openvino_model.bin"
    flip(heaviest, -100)
    with pytest.raises(ArtifactError, match=rf"{heaviest.name} is damaged or was changed: its sha256"):
        check_load(container)
    heaviest.unlink()
    with pytest.raises(ArtifactError, match=rf"{heaviest.name} cannot be read: No such file"):
        check_load(container)


def test_only_reading_again_sees_a_change_that_left_no_trace(
    packed_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a failing disk does it: other bytes, and nothing the file system would tell."""
    container = copied(packed_dir, "safetensors", tmp_path, listed=True)
    monkeypatch.setattr(load_records, "_identity", lambda file: file.name)
    check_load(container)
    flip(container.folder / "model.safetensors", -1)
    check_load(container)
    with pytest.raises(ArtifactError, match="damaged"):
        check_load(container, "always")


def test_settings_people_edit_may_differ_from_the_manifest(
    packed_dir: Path, tmp_path: Path, children: list[str]
) -> None:
    container = copied(packed_dir, "safetensors", tmp_path, listed=True)
    (container.folder / "generation_config.json").write_text('{"temperature": 0.5}')
    check_load(container)
    assert children == ["safetensors"]


def test_a_file_that_ends_its_engine_is_an_error_with_the_last_words(
    packed_dir: Path, tmp_path: Path
) -> None:
    """llama.cpp asserts that no token occurs twice: opened here, this file would end the tests."""
    container = copied(packed_dir, "gguf", tmp_path)
    (file,) = container.folder.glob("*.gguf")
    content = file.read_bytes()
    assert content.count(b"<|unused7|>") == 1
    file.write_bytes(content.replace(b"<|unused7|>", b"<|unused8|>"))
    with pytest.raises(ArtifactError) as caught:
        check_load(container)
    message = caught.value.message
    assert f"{file.name} cannot be loaded: llama.cpp killed its process: SIGABRT" in message
    assert "GGML_ASSERT(id_to_token.size() == token_to_id.size()) failed" in message


def test_the_child_prints_what_llama_cpp_said(packed_dir: Path, tmp_path: Path) -> None:
    """On a crash the lines kept in memory are lost, so the child writes them out as they come."""
    file = next((packed_dir / "gguf").glob("*.gguf"))
    code = f"from edgeport.runtimes.safe_load import load_in_child; load_in_child('gguf', {str(file)!r})"
    environment = {**os.environ, "EDGEPORT_ENGINE_LOG": "1"}
    spoken = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert spoken.returncode == 0 and "llama_context" in spoken.stderr
    silent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert silent.returncode == 0 and silent.stderr == ""


def test_logits_that_are_no_numbers_are_no_success(packed_dir: Path, tmp_path: Path) -> None:
    container = copied(packed_dir, "safetensors", tmp_path)
    file = container.folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    begin, end = place_of(file, "model.norm.weight")
    content[begin:end] = b"\xff" * (end - begin)  # NaN in every float format
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match="not finite"):
        check_load(container)


def test_a_program_that_is_no_interpreter_is_not_started_again(
    packed_dir: Path, tmp_path: Path, children: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    container = copied(packed_dir, "safetensors", tmp_path, listed=True)
    monkeypatch.setattr(sys, "executable", "/opt/app/app")
    check_load(container)
    assert children == []
    with pytest.raises(UsageError, match="no Python interpreter"):
        check_load(container, "always")
    flip(container.folder / "model.safetensors", -1)
    with pytest.raises(ArtifactError, match="damaged"):
        check_load(container)


def test_another_word_for_check_is_refused(packed_dir: Path) -> None:
    with pytest.raises(UsageError, match="check is 'sometimes'"):
        check_load(find_containers(packed_dir / "gguf")[0], "sometimes")


def test_only_the_models_own_files_count(tmp_path: Path) -> None:
    names = [
        "a-00001-of-00002.gguf",
        "a-00002-of-00002.gguf",
        "b.gguf",
        "model[1].onnx",
        "model[1].onnx.data",
    ]
    for name in [*names, "other.onnx", "config.json", "openvino_model.xml", "openvino_model.bin"]:
        (tmp_path / name).write_bytes(b"x")

    def files(kind: str, path: Path) -> list[str]:
        return sorted(file.name for file in container_files(Container(kind, path)))

    assert files("gguf", tmp_path / names[0]) == names[:2]
    assert files("gguf", tmp_path / "b.gguf") == ["b.gguf"]
    assert files("onnx", tmp_path / "model[1].onnx") == ["config.json", *names[3:]]
    assert files("openvino", tmp_path) == ["config.json", "openvino_model.bin", "openvino_model.xml"]
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(ArtifactError, match="no gguf model"):
        files("gguf", folder)
