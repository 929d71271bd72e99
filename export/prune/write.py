"""Write the cut model as a stock Hugging Face folder, tensor by tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.export.families.decoder import EMBEDDING, DecoderSpec
from edgeport.export.prune.kept import Kept, cut_tensor, source_name
from edgeport.export.prune.vocabulary import STALE_FILES, VocabularyCut
from edgeport.export.safetensors_file import SafetensorsWriter, TensorPlan
from edgeport.export.source import SIDE_FILES, SourceModel

SHARD_BYTES = 5 * 10**9
Array = npt.NDArray[Any]
Replaced = Callable[[str], Array | None]
"""float32 values for a tensor of the cut model by its name, or None: as it is cut."""


def write_weights(
    folder: Path,
    source: SourceModel,
    kept: Kept,
    spec: DecoderSpec,
    replaced: Replaced,
    advance: Callable[[], None],
) -> None:
    """Weights of the cut model, in the source's dtypes; `advance` is called after each tensor."""
    plan = [TensorPlan(item.name, _dtype(source, kept, item.name), item.shape) for item in spec.tensors()]
    shards = plan_shards(plan)
    for number, shard in enumerate(shards, start=1):
        with SafetensorsWriter(folder / _shard_name(number, len(shards)), shard) as writer:
            for item in shard:
                writer.write(item.name, _values(source, kept, item, replaced(item.name)))
                advance()
    if len(shards) > 1:
        _write_index(folder, shards)


def plan_shards(plan: Sequence[TensorPlan], shard_bytes: int = SHARD_BYTES) -> list[list[TensorPlan]]:
    """Filled in order; a tensor larger than a shard gets one of its own."""
    shards: list[list[TensorPlan]] = [[]]
    filled = 0
    for item in plan:
        if shards[-1] and filled + item.size_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(item)
        filled += item.size_bytes
    return shards


def write_side_files(
    folder: Path, source: SourceModel, config: Mapping[str, Any], cut: VocabularyCut | None
) -> None:
    """config.json, and the source's other files; a trimmed vocabulary brings its own and leaves stale ones behind."""
    changed = dict(cut.files) if cut is not None else {}
    changed["config.json"] = dict(config)
    for name in SIDE_FILES:
        if name in changed:
            write_json(folder / name, changed[name])
        elif (source.directory / name).is_file() and not (cut is not None and name in STALE_FILES):
            shutil.copyfile(source.directory / name, folder / name)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _dtype(source: SourceModel, kept: Kept, name: str) -> str:
    origin, _ = source_name(name, kept)
    return source.weights.entry(origin if origin in source.weights else EMBEDDING).dtype


def _values(source: SourceModel, kept: Kept, item: TensorPlan, replaced: Array | None) -> Array:
    """Where the cut model's family wants an output bias that the source lacks (qwen2 leaving as llama), it is zero."""
    origin, _ = source_name(item.name, kept)
    if origin not in source.weights:
        return np.zeros(item.shape, dtype=source.tensor(EMBEDDING).dtype)
    if replaced is not None:
        return replaced.astype(source.tensor(origin).dtype)
    values = cut_tensor(source, kept, item.name)
    source.weights.release(origin)
    return values


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _write_index(folder: Path, shards: Sequence[Sequence[TensorPlan]]) -> None:
    where = {
        item.name: _shard_name(number, len(shards))
        for number, shard in enumerate(shards, start=1)
        for item in shard
    }
    total = sum(item.size_bytes for shard in shards for item in shard)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    write_json(folder / "model.safetensors.index.json", index)
