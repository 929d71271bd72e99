"""What a measurement is about: an artifact with its manifest, or a model of any origin that is described like one.

A foreign model has no manifest to write figures into, and no `weights_id` over dequantized weights: the id made here is one of its
files' bytes, and begins with `files:`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeport.errors import ArtifactError, UsageError
from edgeport.manifest import (
    MANIFEST_NAME,
    ContainerEntry,
    FileEntry,
    Manifest,
    ModelFacts,
    SourceFacts,
    base_format,
    read_manifest,
)
from edgeport.runtimes.container import Container, find_containers
from edgeport.runtimes.container_files import container_files
from edgeport.runtimes.inspect.document import Inspection
from edgeport.runtimes.inspect.onnx import onnx_file
from edgeport.runtimes.inspect.open import READERS, gguf_file
from edgeport.runtimes.inspect.openvino import MODEL_NAME
from edgeport.runtimes.inspect.side_files import read_side_files
from edgeport.runtimes.load_records import content_sha256s
from edgeport.runtimes.model_config import UNKNOWN_CONTEXT_LENGTH

FOREIGN_ID = "files:"
_FLOAT16_BYTES = 2


@dataclass(frozen=True, slots=True)
class Subject:
    """directory: what the manifest's paths are relative to. is_artifact: figures can be written into its manifest."""

    directory: Path
    manifest: Manifest
    is_artifact: bool


def open_subject(path: Path) -> Subject:
    """An artifact, one of its containers, or a model file or folder of any origin.

    Raises UsageError and ArtifactError for what is none of them, UsageError for a header that cannot be read.
    """
    if (path / MANIFEST_NAME).is_file():
        return Subject(path, read_manifest(path), True)
    containers = find_containers(path)
    manifest = containers[0].manifest
    if manifest is not None:
        entries = tuple(manifest.container(item.format) for item in containers)
        return Subject(containers[0].folder.parent, replace(manifest, containers=entries), False)
    directory = path if path.is_dir() else path.parent
    return Subject(directory, _described(path, directory, containers), False)


def is_foreign(manifest: Manifest) -> bool:
    """Whether a manifest was made here, of a model that has none."""
    return manifest.weights_id.startswith(FOREIGN_ID)


def _described(path: Path, directory: Path, containers: Sequence[Container]) -> Manifest:
    files = [_model_file(item) for item in containers]
    found = [READERS[base_format(item.format)](file) for item, file in zip(containers, files, strict=True)]
    entries = tuple(_entry(item, file, directory) for item, file in zip(containers, files, strict=True))
    facts = _facts(found[0])
    name = path.resolve().name
    return Manifest(
        name=name,
        created="",
        source=SourceFacts(name, "", 0, "", str(path)),
        recipe={"name": found[0].quantization or f"{facts.bits_per_weight:.3g} bit"},
        device="",
        model=facts,
        weights_id=entries[0].weights_id,
        containers=entries,
    )


def _model_file(container: Container) -> Path:
    """The file the engine opens; of safetensors the folder."""
    kind, path = base_format(container.format), container.path
    if path.is_file() or kind == "safetensors":
        return path
    if kind == "gguf":
        return gguf_file(path)
    if kind == "onnx":
        return onnx_file(path, read_side_files(path))
    return path / MODEL_NAME


def _entry(container: Container, file: Path, directory: Path) -> ContainerEntry:
    digests = content_sha256s(container_files(replace(container, path=file)))
    files = tuple(
        FileEntry(item.relative_to(directory).as_posix(), item.stat().st_size, digest)
        for item, digest in sorted(digests.items())
    )
    if not files:
        raise ArtifactError(f"no model in {container.path}")
    joined = "\n".join(item.sha256 for item in files)
    return ContainerEntry(
        format=container.format,
        entry_point=file.relative_to(directory).as_posix(),
        files=files,
        size_bytes=sum(item.size_bytes for item in files),
        weights_id=FOREIGN_ID + hashlib.sha256(joined.encode()).hexdigest(),
    )


def _facts(found: Inspection) -> ModelFacts:
    """What an inspection knows; 0 where it does not. Raises UsageError for a model that writes no text."""
    shapes = found.shapes
    if found.chat_template is None:
        raise UsageError(
            f"{found.name} is no model that writes text",
            hint="bench times decoders; `edgeport inspect` says what it is",
        )
    layers, kv_heads, head_dim = (value or 0 for value in (shapes.layers, shapes.kv_heads, shapes.head_dim))
    return ModelFacts(
        family=found.family or found.kind,
        parameters=found.parameters,
        layers=layers,
        hidden_size=shapes.hidden_size or 0,
        intermediate_size=shapes.intermediate_size or 0,
        heads=shapes.heads or 0,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=shapes.vocab_size or 0,
        context_length=shapes.context_length or UNKNOWN_CONTEXT_LENGTH,
        tied_embeddings=False,
        bits_per_weight=found.bits_per_weight or 0.0,
        kv_bytes_per_token=2 * layers * kv_heads * head_dim * _FLOAT16_BYTES,
    )
