"""Codes that training decided: kept beside the float weights they stand for, and taken over when the model is quantized.

A model folder of the student `qat` holds, beside its stock files,

    quantized/    a checkpoint (docs/checkpoint.md) of codes and scales

and float32 weights that are exactly codes times scales. The codes could be searched again from these, but not for certain:
the search starts from each block's largest value, and a block that does not use its lowest code hides the scale it was
trained with. So a recipe with the same scheme for every tensor takes them over, whatever its solver: no solver can do better
than values it has to change nothing of.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeport.errors import UsageError
from edgeport.export.checkpoint import CHECKPOINT_NAME, Checkpoint, tensor_digest
from edgeport.export.quantize.tensor import QuantizedTensor
from edgeport.export.recipe import Recipe
from edgeport.export.safetensors_file import SafetensorsWriter, TensorPlan
from edgeport.export.source import SIDE_FILES, SourceModel

TRAINED_FOLDER = "quantized"


def find_trained(source: SourceModel, recipe: Recipe) -> Checkpoint | None:
    """The trained codes of `source`, where it has them and the recipe wants these very schemes; else None.

    Raises ArtifactError for a damaged checkpoint.
    """
    folder = source.directory / TRAINED_FOLDER
    if not (folder / CHECKPOINT_NAME).is_file():
        return None
    found = Checkpoint(folder, source.spec)
    wanted = {item.name: recipe.scheme_for(item) for item in source.spec.tensors()}
    return found if wanted == {record.name: record.scheme for record in found.records} else None


def trained_results(source: SourceModel, trained: Checkpoint) -> Iterator[QuantizedTensor]:
    """One for each of the source's tensors, in their order, for `write_checkpoint`.

    Raises UsageError when codes and float weights of the folder are not the same numbers.
    """
    for item in source.spec.tensors():
        digest = tensor_digest(source.tensor(item.name).astype(np.float32))
        source.weights.release(item.name)
        if digest != trained.record(item.name).digest:
            raise UsageError(
                f"{item.name} in {source.directory} is not what its trained codes stand for: the weights were changed",
                hint=f"delete the folder {TRAINED_FOLDER} in it, to quantize the weights as they are",
            )
        tensor = trained.tensor(item.name)
        yield QuantizedTensor(tensor.payload, tensor.scales, digest)


def write_float_folder(source: SourceModel, trained: Checkpoint, folder: Path) -> None:
    """A stock Hugging Face folder of what a checkpoint stands for, in float32, which holds every value exactly."""
    items = list(source.spec.tensors())
    plan = [TensorPlan(item.name, "F32", item.shape) for item in items]
    with SafetensorsWriter(folder / "model.safetensors", plan) as writer:
        for item in items:
            writer.write(item.name, trained.tensor(item.name).dequantize())
            trained.release(item.name)
    for name in SIDE_FILES:
        if (source.directory / name).is_file():
            shutil.copyfile(source.directory / name, folder / name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(_in_float32(config), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _in_float32(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers 5 reads `dtype`, older ones `torch_dtype`; the one that is there is kept."""
    name = "torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"
    return {**config, name: "float32"}
