"""The manifest of an artifact folder: the one contract between the exporter and the device.

Only files and this document cross from `edgeport.export` to `edgeport.runtimes`; never Python objects.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeport.errors import ArtifactError

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1


def base_format(name: str) -> str:
    """The format whose engine and readers open a container: `gguf-q4_k_m`, a scheme of GGUF's own, is `gguf`."""
    return name.partition("-")[0]


def is_native(name: str) -> bool:
    """Whether a container has a scheme of its format's own, and so weights of its own."""
    return base_format(name) != name


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file; `path` is relative to the artifact folder, with forward slashes."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ContainerEntry:
    """One packed container, e.g. format `onnx` in folder `onnx` opened through `onnx/model.onnx`."""

    format: str
    entry_point: str
    files: tuple[FileEntry, ...]
    size_bytes: int
    weights_id: str
    verified: bool = False


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a device needs to know of the model without opening a container."""

    family: str
    parameters: int
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    tied_embeddings: bool
    bits_per_weight: float
    kv_bytes_per_token: int
    """Key and value of one token over all layers, in float16."""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """Where the weights came from; `fingerprint` identifies config, tokenizer and weight files.

    `location` is the folder or hub id as the user gave it, so that eval finds the source again.
    """

    name: str
    fingerprint: str
    size_bytes: int
    dtype: str
    location: str = ""


@dataclass(frozen=True, slots=True)
class StageFacts:
    """The float model after one stage: `source`, `pruned`, `recovered`. seconds: what the stage took.

    Quality is that of the weights in float32 on the gate's text, against the source; None where nothing was measured.
    """

    name: str
    parameters: int
    size_bytes: int
    seconds: float | None = None
    perplexity: float | None = None
    perplexity_ratio: float | None = None
    mean_kl_divergence: float | None = None
    same_top1: float | None = None


@dataclass(frozen=True, slots=True)
class DraftEntry:
    """A small model that proposes tokens for this one (docs/drafts.md): a whole artifact of its own in sub-folder `folder`.

    weights_id: the draft's. acceptance_rate and tokens_per_step: measured on text when the draft was put there, None where
    nobody measured. drafted_tokens: proposals per call of the model.
    """

    folder: str
    weights_id: str
    drafted_tokens: int = 4
    acceptance_rate: float | None = None
    tokens_per_step: float | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """`quality`, `speed` and `soak` map a format to the dataclasses of eval and bench, as plain JSON.

    stages: the float models before quantization, where the recipe prunes or recovers; else empty. draft: the small model
    beside this one, if any.

    calibration: origin, tokens and sha256 of the text the codes were solved on, empty where none was needed. gate: the
    verdict with every line of it, its thresholds, and the path of the ladder; empty when the export was not judged.
    encoder: of a model that makes vectors or labels, its settings (edgeport.runtimes.encoder_settings) and how near each
    container is to the float model; empty for a decoder.
    """

    name: str
    created: str
    source: SourceFacts
    recipe: Mapping[str, Any]
    device: str
    model: ModelFacts
    weights_id: str
    containers: tuple[ContainerEntry, ...]
    tool_versions: Mapping[str, str] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    speed: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[StageFacts, ...] = ()
    draft: DraftEntry | None = None
    soak: Mapping[str, Any] = field(default_factory=dict)
    encoder: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def container(self, format_name: str) -> ContainerEntry:
        for entry in self.containers:
            if entry.format == format_name:
                return entry
        present = ", ".join(entry.format for entry in self.containers)
        raise ArtifactError(
            f"artifact '{self.name}' has no container '{format_name}'", hint=f"it holds: {present}"
        )


def read_manifest(directory: Path) -> Manifest:
    """Read `directory/manifest.json`. Raises ArtifactError when it is missing, damaged or of another schema."""
    path = Path(directory) / MANIFEST_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"no {MANIFEST_NAME} in {directory}", hint="give the folder `edgeport export` wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        version = document.get("schema_version") if isinstance(document, dict) else None
        raise ArtifactError(f"{path} has schema_version {version}, this edgeport reads {SCHEMA_VERSION}")
    try:
        manifest = from_json(Manifest, document)
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is not a manifest: {error}") from error
    assert isinstance(manifest, Manifest)
    return manifest


def write_manifest(manifest: Manifest, directory: Path) -> Path:
    """Write atomically: a reader sees the old manifest or the new one, never half of it."""
    path = Path(directory) / MANIFEST_NAME
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(to_json(manifest), indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def to_json(value: Any) -> Any:
    """Dataclasses (also nested) to plain JSON values; keys are the field names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def from_json(kind: Any, value: Any) -> Any:
    """The inverse of `to_json` for a dataclass type. Raises KeyError (missing) and TypeError (unknown or wrong type)."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_from_json(kind, value)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError(f"expected a list, got {type(value).__name__}")
        return tuple(from_json(typing.get_args(kind)[0], item) for item in value)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        return None if value is None else from_json(options[0], value)
    if kind is float and isinstance(value, int):
        return float(value)
    if isinstance(kind, type) and not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value


def _dataclass_from_json(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected an object for {kind.__name__}, got {value!r}")
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise TypeError(f"unknown keys in {kind.__name__}: {', '.join(unknown)}")
    arguments = {}
    for name, item in fields.items():
        if name in value:
            arguments[name] = from_json(hints[name], value[name])
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise KeyError(f"{kind.__name__}.{name} is missing")
    return kind(**arguments)


def file_entry(path: Path, root: Path) -> FileEntry:
    """Size and sha256 of one file, read in 4 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(4 << 20):
            digest.update(piece)
    return FileEntry(path.relative_to(root).as_posix(), path.stat().st_size, digest.hexdigest())
