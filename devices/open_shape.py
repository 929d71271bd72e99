"""What a user names as a model, as a `ModelShape`: a folder, an artifact, a model file, a well-known name or a hub id."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeport.devices.config_shape import shape_from_config
from edgeport.devices.gguf_shape import shape_from_gguf
from edgeport.devices.hub_config import LARGEST_CONFIG_BYTES, is_hub_id, parse_config, read_hub_config
from edgeport.devices.known_models import known_by_hub_id, known_names, load_known
from edgeport.devices.profile_keys import nearest
from edgeport.devices.safetensors_header import read_safetensors_folder
from edgeport.devices.shape import ModelShape, shape_of
from edgeport.devices.stored_bits import with_stored_bits
from edgeport.errors import ArtifactError, UsageError
from edgeport.manifest import MANIFEST_NAME, read_manifest

CONFIG_NAME = "config.json"


def open_shape(text: str) -> ModelShape:
    """The shape of the model `text` names. Weights are never read, only headers.

    A path wins over a name; of a hub id the known configurations are asked first, then the local cache, then the network.
    Raises UsageError when nothing of that name can be read, ArtifactError for a damaged artifact.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return _from_folder(path, path.resolve().name)
    if path.is_file():
        return _from_file(path)
    if text.lower() in known_names():
        return load_known(text.lower())
    if is_hub_id(text):
        known = known_by_hub_id(text)
        return load_known(known) if known is not None else shape_from_config(read_hub_config(text), name=text)
    raise UsageError(
        f"'{text}' is no folder, model file, known model or hub id{nearest(text.lower(), known_names())}",
        hint=f"give a folder with config.json, a .gguf file, owner/name, or one of {', '.join(known_names())}",
    )


def _from_folder(folder: Path, name: str) -> ModelShape:
    if (folder / MANIFEST_NAME).is_file():
        return _from_artifact(folder)
    if (folder / CONFIG_NAME).is_file():
        return with_stored_bits(_from_config(folder / CONFIG_NAME, name), read_safetensors_folder(folder))
    files = sorted(folder.glob("*.gguf"))
    if files:
        return shape_from_gguf(files[0])
    raise UsageError(
        f"{folder} has no {CONFIG_NAME}, {MANIFEST_NAME} or .gguf file",
        hint="give the folder save_pretrained() or `edgeport export` wrote",
    )


def _from_artifact(folder: Path) -> ModelShape:
    """The packed model's own config.json where a container carries it, otherwise what the manifest tells."""
    manifest = read_manifest(folder)
    for container in manifest.containers:
        config = (folder / container.entry_point).parent / CONFIG_NAME
        if config.is_file():
            shape = _from_config(config, manifest.name)
            if shape.parameters != manifest.model.parameters:
                raise ArtifactError(
                    f"{config} describes {shape.parameters} parameters, the manifest {manifest.model.parameters}",
                    hint="one of them was changed after the export",
                )
            return shape
    return replace(shape_of(manifest.model), name=manifest.name)


def _from_file(path: Path) -> ModelShape:
    if path.suffix == ".gguf":
        return shape_from_gguf(path)
    if path.suffix == ".json" and path.name != MANIFEST_NAME:
        return _from_config(path, path.resolve().parent.name)
    if path.suffix == ".safetensors" or path.name == MANIFEST_NAME:
        return _from_folder(path.parent, path.resolve().parent.name)
    raise UsageError(
        f"{path} is neither a .gguf or .safetensors file nor a config.json",
        hint="give the folder the model lies in",
    )


def _from_config(path: Path, name: str) -> ModelShape:
    if path.stat().st_size > LARGEST_CONFIG_BYTES:
        raise UsageError(f"{path} has more than {LARGEST_CONFIG_BYTES} bytes")
    return shape_from_config(parse_config(path.read_bytes(), str(path)), name=name)
