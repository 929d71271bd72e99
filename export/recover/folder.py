"""Write a stock Hugging Face folder from float arrays: the source's dtypes, shapes and side files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UnsupportedModel
from edgeport.export.families.storage import require_plain
from edgeport.export.safetensors_file import DTYPES, SafetensorsWriter, TensorPlan
from edgeport.export.source import SIDE_FILES, SourceModel


def write_folder(
    source: SourceModel, folder: Path, tensor: Callable[[str], npt.NDArray[np.floating[Any]]]
) -> None:
    """model.safetensors with `tensor(name)` for each tensor of the source, rounded to the source's dtype, and its side
    files. Streams tensor by tensor. Raises UnsupportedModel for values that are not finite in that dtype."""
    require_plain(source.spec.storage, source.spec.family, "training")
    items = list(source.spec.tensors())
    plan = [TensorPlan(item.name, source.weights.entry(item.name).dtype, item.shape) for item in items]
    with SafetensorsWriter(folder / "model.safetensors", plan) as writer:
        for item in plan:
            with np.errstate(over="ignore"):  # said below, with the name
                values = np.ascontiguousarray(tensor(item.name)).astype(DTYPES[item.dtype])
            if not np.isfinite(values.astype(np.float32)).all():
                raise UnsupportedModel(
                    f"{item.name} has values that are not finite in {item.dtype}",
                    hint="training diverged, or the dtype is too narrow: take a smaller learning rate",
                )
            writer.write(item.name, values)
    for name in SIDE_FILES:
        if (source.directory / name).is_file():
            shutil.copyfile(source.directory / name, folder / name)
