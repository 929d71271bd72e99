"""Read packed safetensors back with the safetensors and compressed-tensors packages, module by module."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import ArtifactError
from edgeport.export.families.storage import Stored, where_stored
from edgeport.export.families.table import read_spec
from edgeport.lazy import missing_extra


def read_weights(path: Path) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """(canonical name, float32 values) of every weight under the folder of `path` (its config.json)."""
    config = json.loads(path.read_text(encoding="utf-8"))
    spec = read_spec({key: value for key, value in config.items() if key != "quantization_config"})
    held: dict[str, list[tuple[str, Stored]]] = {}
    for name, place in where_stored(spec.storage, spec.tensors()).items():
        held.setdefault(place.name, []).append((name, place))
    for stored, values in _stored_weights(path, config):
        for name, place in held.get(stored, [(stored, Stored(stored))]):
            rows = values if place.rows is None else values[place.rows[0] : place.rows[1]]
            yield name, rows + np.float32(place.added) if place.added else rows


def _stored_weights(path: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    with missing_extra("eval", purpose="reading packed safetensors"):
        from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
        from compressed_tensors.quantization import QuantizationConfig
        from safetensors import SafetensorError, safe_open
    quantization = config.get("quantization_config")
    schemes = QuantizationConfig.model_validate(quantization).config_groups if quantization else {}
    by_module = {module: scheme for scheme in schemes.values() for module in scheme.targets}
    for file in sorted(path.parent.glob("*.safetensors")):
        try:
            stream: Any = safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{file} cannot be opened: {error}") from error
        with stream:
            names = set(stream.keys())
            for name in sorted(names):
                if name.endswith((".weight_scale", ".weight_shape")):
                    continue
                if not name.endswith(".weight_packed"):
                    yield name, stream.get_tensor(name).float().numpy()
                    continue
                module = name.removesuffix(".weight_packed")
                if module not in by_module:
                    raise ArtifactError(
                        f"{file}: {name} is packed, but config.json gives {module} no quantization"
                    )
                parts = _module_parts(stream, names, module, file)
                state = PackedQuantizationCompressor.decompress(parts, by_module[module])
                yield f"{module}.weight", state["weight"].float().numpy()


def _module_parts(stream: Any, names: set[str], module: str, file: Path) -> dict[str, Any]:
    parts = {}
    for part in ("weight_packed", "weight_scale", "weight_shape"):
        if f"{module}.{part}" not in names:
            raise ArtifactError(f"{file}: {module}.{part} is missing")
        tensor = stream.get_tensor(f"{module}.{part}")
        # float32 scales, so that the product is computed in float32
        parts[part] = tensor.float() if part == "weight_scale" else tensor
    return parts
