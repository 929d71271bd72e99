"""Find the containers in what the user names: an artifact folder, one of its sub-folders, or a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import ArtifactError, UsageError
from edgeport.manifest import MANIFEST_NAME, Manifest, base_format, read_manifest

_SUFFIXES: Mapping[str, str] = {
    ".gguf": "gguf",
    ".onnx": "onnx",
    ".xml": "openvino",
    ".safetensors": "safetensors",
}
_MARKS: tuple[tuple[str, str], ...] = (
    ("openvino", "openvino_model.xml"),
    ("onnx", "genai_config.json"),
    ("onnx", "model.onnx"),
    ("gguf", "*.gguf"),
    ("safetensors", "*.safetensors"),
)


@dataclass(frozen=True, slots=True)
class Container:
    """One container: its format, what its engine opens, and the manifest of its artifact when there is one."""

    format: str
    path: Path
    manifest: Manifest | None = None

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    def find(self, name: str) -> Path | None:
        """A small file of the model: the container's own, or the same one beside another container of its artifact."""
        folders = [self.folder]
        if self.manifest is not None:
            folders += [self.folder.parent / entry.format for entry in self.manifest.containers]
        return next((file for folder in folders if (file := folder / name).is_file()), None)

    def speed(self) -> Mapping[str, Any]:
        """What the bench measured for this container on the machine that made it; empty when nothing was."""
        found = self.manifest.speed.get(self.format, {}) if self.manifest else {}
        return found if isinstance(found, Mapping) else {}


def find_containers(path: Path) -> list[Container]:
    """Every container at `path`. Raises ArtifactError when there is none, UsageError when the path does not exist."""
    if path.is_file():
        return [_from_file(path)]
    if not path.is_dir():
        raise UsageError(
            f"no such file or folder: {path}",
            hint="give an artifact folder, a container folder or a model file",
        )
    if (path / MANIFEST_NAME).is_file():
        return _from_manifest(path)
    here = format_of_folder(path)
    if here is not None:
        manifest = _parent_manifest(path)
        return [Container(_listed_format(path, here, manifest), path, manifest)]
    folders = sorted(item for item in path.iterdir() if item.is_dir())
    found = [Container(kind, folder) for folder in folders if (kind := format_of_folder(folder)) is not None]
    if not found:
        raise ArtifactError(
            f"no model in {path}",
            hint="give the folder `edgeport export` wrote, or a folder with one container",
        )
    return found


def format_of_folder(folder: Path) -> str | None:
    """The format whose files lie directly in `folder`."""
    return next((kind for kind, pattern in _MARKS if any(folder.glob(pattern))), None)


def _from_file(path: Path) -> Container:
    kind = _SUFFIXES.get(path.suffix)
    if kind is None:
        raise UsageError(
            f"{path.name} is not a model file", hint=f"model files end in {', '.join(_SUFFIXES)}"
        )
    manifest = _parent_manifest(path.parent)
    kind = _listed_format(path.parent, kind, manifest)
    return Container(kind, path.parent if kind == "safetensors" else path, manifest)


def _from_manifest(folder: Path) -> list[Container]:
    manifest = read_manifest(folder)
    containers = []
    for entry in manifest.containers:
        path = folder / entry.entry_point
        if not path.exists():
            raise ArtifactError(
                f"{path} is missing: {MANIFEST_NAME} names it",
                hint="copy the whole artifact folder, or export again",
            )
        containers.append(Container(entry.format, path, manifest))
    if not containers:
        raise ArtifactError(f"{folder / MANIFEST_NAME} names no container", hint="export again")
    return containers


def _listed_format(folder: Path, kind: str, manifest: Manifest | None) -> str:
    """The name the manifest has for the container in `folder`, e.g. `gguf-q4_k_m`; `kind` when it lists none there."""
    listed = [] if manifest is None else [entry.format for entry in manifest.containers]
    # A bitsandbytes folder holds safetensors too, but not what the reader of that format understands.
    known = folder.name in listed and base_format(folder.name) in (kind, "bitsandbytes")
    return folder.name if known else kind


def _parent_manifest(folder: Path) -> Manifest | None:
    return read_manifest(folder.parent) if (folder.parent / MANIFEST_NAME).is_file() else None
