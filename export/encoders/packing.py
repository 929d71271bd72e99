"""What the writers of containers get, and the writers by format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from edgeport.devices.int8_range import Int8Range
from edgeport.export.checkpoint import StoredTensors
from edgeport.export.encoders.recipes import EncoderRecipe
from edgeport.export.encoders.spec import EncoderSpec
from edgeport.lazy import load
from edgeport.runtimes.encoder_settings import EncoderSettings


@dataclass(frozen=True, slots=True)
class PackedEncoder:
    """An encoder that is quantized and can be written. int8: for recipes that compute in INT8. ranges: of the input of each
    linear layer, from calibration, empty where the recipe needs none."""

    name: str
    spec: EncoderSpec
    settings: EncoderSettings
    checkpoint: StoredTensors
    recipe: EncoderRecipe
    int8: Int8Range
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class EncoderFormat(Protocol):
    """One container format; tensors are streamed into an existing empty directory."""

    def reasons_against(self, spec: EncoderSpec, recipe: EncoderRecipe, source: Path) -> list[str]:
        """Why this model, this recipe or the tokenizer in folder `source` cannot be held; empty when all can."""
        ...

    def write(self, encoder: PackedEncoder, directory: Path) -> Path:
        """Pack every tensor; return the file an engine opens."""
        ...


ENCODER_FORMATS: Mapping[str, str] = {
    "onnx": "edgeport.export.encoders.onnx:OnnxEncoderFormat",
    "openvino": "edgeport.export.encoders.openvino:OpenVinoEncoderFormat",
    "gguf": "edgeport.export.encoders.gguf:GgufEncoderFormat",
}


def get_encoder_format(name: str) -> EncoderFormat:
    """Raises KeyError for a name that is not in the table, MissingExtra when its package is absent."""
    return cast(EncoderFormat, load(ENCODER_FORMATS[name], extra="export")())


def no_integer_compute(recipe: EncoderRecipe) -> list[str]:
    """Why a container other than onnx refuses the recipe."""
    if recipe.activations == "float":
        return []
    return [f"recipe {recipe.name} is made of ONNX Runtime's operators, use int8 here"]
