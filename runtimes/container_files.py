"""The files of a container, and what the manifest says each of them contains."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeport.errors import ArtifactError
from edgeport.manifest import base_format
from edgeport.runtimes.container import Container

EDITABLE = (
    "chat_template.jinja",
    "generation_config.json",
    "genai_config.json",
    "tokenizer_config.json",
)
"""Small text files people edit on purpose: defaults of generation and templates. No sha256 is demanded of them."""

_CONFIGURATION = ("*.json", "*.jinja")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


def container_files(container: Container) -> Mapping[Path, str | None]:
    """Every file the engine reads, with the sha256 it must have or None where nothing says.

    Raises ArtifactError when there is no such file.
    """
    listed = _from_manifest(container)
    files: Mapping[Path, str | None] = listed or dict.fromkeys(_on_disk(container))
    if not files:
        raise ArtifactError(
            f"no {base_format(container.format)} model in {container.path}",
            hint="give the folder `edgeport export` wrote, or a model file",
        )
    return files


def _from_manifest(container: Container) -> Mapping[Path, str | None]:
    if container.manifest is None:
        return {}
    root = container.folder.parent
    return {
        root / item.path: None if Path(item.path).name in EDITABLE else item.sha256
        for entry in container.manifest.containers
        if entry.format == container.format
        for item in entry.files
    }


def _on_disk(container: Container) -> Iterator[Path]:
    """Without a manifest: the model's own files, not the other models that may lie beside it."""
    kind, folder = base_format(container.format), container.folder
    file = container.path if container.path.is_file() else None
    if kind == "gguf":
        yield from _gguf_files(folder, file)
        return
    if kind == "openvino":
        stem = glob.escape(file.stem) if file else "openvino_model"
        patterns = [f"{stem}.xml", f"{stem}.bin"]
    elif kind == "onnx":
        # external data is named after the model: model.onnx.data, model.onnx_data, model.onnx_data_1
        patterns = [f"{glob.escape(file.name)}*" if file else "*.onnx*"]
    else:
        patterns = ["*.safetensors"]
    for pattern in (*patterns, *_CONFIGURATION):
        yield from sorted(item for item in folder.glob(pattern) if item.is_file())


def _gguf_files(folder: Path, file: Path | None) -> list[Path]:
    if file is None:
        return sorted(folder.glob("*.gguf"))
    if not _SPLIT.search(file.name):
        return [file]
    first = _SPLIT.sub("", file.name)
    return sorted(item for item in folder.glob("*.gguf") if _SPLIT.sub("", item.name) == first)
