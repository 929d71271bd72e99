"""Quantize a source model into a checkpoint: tensor by tensor, on every core, with a bounded amount in memory.

Workers take whole tensors and return packed bytes; the main thread writes them in order. Rows are read from the memory map
in pieces, so that a worker holds the packed result and one piece in float32, whatever the size of the tensor.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UnsupportedModel
from edgeport.export.checkpoint import SOURCE_FOLDER, TensorRecord, pack_codes, write_index
from edgeport.export.families.decoder import TensorSpec
from edgeport.export.quantize import rtn
from edgeport.export.quantize.grid import LARGEST_SCALE
from edgeport.export.recipe import Recipe
from edgeport.export.safetensors_file import DTYPES, SafetensorsWriter, TensorPlan
from edgeport.export.source import SIDE_FILES, SourceModel
from edgeport.progress import Progress
from edgeport.scheme import TensorScheme

_PIECE_ELEMENTS = 1 << 21  # 8 MiB in float32 per worker
_SHARD_BYTES = 2 << 30
_FLOAT_DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """payload and scales as `checkpoint.PackedTensor` has them; digest of the dequantized float32 values."""

    payload: npt.NDArray[Any]
    scales: npt.NDArray[np.float16] | None
    digest: str


def quantize(
    source: SourceModel, recipe: Recipe, directory: Path, *, threads: int, progress: Progress
) -> None:
    """Write a checkpoint into the existing empty `directory`; checkpoint.json comes last.

    Raises UnsupportedModel for a weight that is not finite or not representable.
    """
    tensors = list(source.spec.tensors())
    records: list[TensorRecord] = []
    shards = _shards(tensors, recipe)
    with progress.stage("quantize", total=len(tensors)) as stage, ThreadPoolExecutor(threads) as pool:
        results = _in_order(pool, source, recipe, tensors, ahead=threads + 1)
        for number, shard in enumerate(shards, start=1):
            path = directory / f"weights-{number:05d}-of-{len(shards):05d}.safetensors"
            plan = [entry for item in shard for entry in _plan(item, recipe.scheme_for(item))]
            with SafetensorsWriter(path, plan) as writer:
                for item in shard:
                    result = next(results)
                    _write(writer, item.name, result)
                    scheme = recipe.scheme_for(item)
                    records.append(
                        TensorRecord(item.name, item.shape, scheme.kind, scheme.block, result.digest)
                    )
                    stage.advance(1)
    copy_side_files(source.directory, directory / SOURCE_FOLDER)
    write_index(directory, records)


def copy_side_files(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in SIDE_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def quantize_tensor(values: npt.NDArray[Any], scheme: TensorScheme, *, name: str) -> QuantizedTensor:
    """Quantize or convert one tensor of any float dtype, in pieces of rows."""
    if not scheme.is_quantized:
        return _convert(values, scheme, name)
    rows, columns = values.shape
    payload = np.empty((rows, columns * scheme.bits // 8), dtype=np.uint8)
    scales = np.empty((rows, columns // scheme.block), dtype=np.float16)
    digest = hashlib.sha256()
    largest = float(LARGEST_SCALE) * (1 << (scheme.bits - 1))
    for start, piece in _pieces(values, name):
        if np.abs(piece).max() > largest:
            raise UnsupportedModel(
                f"{name} has values beyond {largest:g}, the largest {scheme} can hold",
                hint="use the recipe bf16",
            )
        solved = rtn.solve(piece, scheme)
        stop = start + piece.shape[0]
        payload[start:stop] = pack_codes(solved.codes, scheme.bits)
        scales[start:stop] = solved.scales
        codes = solved.codes.reshape(-1, scheme.block).astype(np.float32)
        codes *= solved.scales.reshape(-1, 1)
        digest.update(_canonical_bytes(codes))
    return QuantizedTensor(payload, scales, digest.hexdigest())


def _convert(values: npt.NDArray[Any], scheme: TensorScheme, name: str) -> QuantizedTensor:
    dtype = DTYPES[_FLOAT_DTYPES[scheme.kind]]
    payload = np.empty(values.shape, dtype=dtype)
    digest = hashlib.sha256()
    for start, piece in _pieces(values.reshape(values.shape[0], -1), name):
        with np.errstate(over="ignore"):
            converted = piece.astype(dtype)
        weights = converted.astype(np.float32)
        if not np.isfinite(weights).all():
            raise UnsupportedModel(
                f"{name} has values beyond the range of {scheme.kind}", hint="use the recipe bf16"
            )
        payload[start : start + piece.shape[0]] = converted.reshape(-1, *values.shape[1:])
        digest.update(_canonical_bytes(weights))
    return QuantizedTensor(payload, None, digest.hexdigest())


def _pieces(values: npt.NDArray[Any], name: str) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """(first row, rows as finite float32 [rows, in_features]) over a tensor [out_features, in_features]."""
    step = max(_PIECE_ELEMENTS // max(values.shape[1], 1), 1)
    for start in range(0, values.shape[0], step):
        piece = values[start : start + step].astype(np.float32)
        if not np.isfinite(piece).all():
            raise UnsupportedModel(
                f"{name} holds NaN or infinite values", hint="the source weights are damaged"
            )
        yield start, piece


def _canonical_bytes(weights: npt.NDArray[np.float32]) -> memoryview:
    """Little-endian float32 with -0.0 as 0.0, as `checkpoint.tensor_digest` hashes them."""
    return np.ascontiguousarray(weights + np.float32(0.0), dtype="<f4").reshape(-1).view(np.uint8).data


def _in_order(
    pool: ThreadPoolExecutor,
    source: SourceModel,
    recipe: Recipe,
    tensors: Sequence[TensorSpec],
    *,
    ahead: int,
) -> Iterator[QuantizedTensor]:
    """Results in tensor order with at most `ahead` tensors in flight, so that memory stays bounded."""
    waiting: list[Future[QuantizedTensor]] = []
    queue = iter(tensors)
    try:
        while True:
            while len(waiting) < ahead and (item := next(queue, None)) is not None:
                waiting.append(pool.submit(_one, source, recipe, item))
            if not waiting:
                return
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


def _one(source: SourceModel, recipe: Recipe, item: TensorSpec) -> QuantizedTensor:
    try:
        return quantize_tensor(source.tensor(item.name), recipe.scheme_for(item), name=item.name)
    finally:
        source.weights.release(item.name)


def _shards(tensors: Sequence[TensorSpec], recipe: Recipe) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    size_bytes = 0
    for item in tensors:
        item_bytes = sum(entry.size_bytes for entry in _plan(item, recipe.scheme_for(item)))
        if shards[-1] and size_bytes + item_bytes > _SHARD_BYTES:
            shards.append([])
            size_bytes = 0
        shards[-1].append(item)
        size_bytes += item_bytes
    return shards


def _plan(item: TensorSpec, scheme: TensorScheme) -> list[TensorPlan]:
    if not scheme.is_quantized:
        return [TensorPlan(item.name, _FLOAT_DTYPES[scheme.kind], item.shape)]
    rows, columns = item.shape
    return [
        TensorPlan(f"{item.name}.codes", "U8", (rows, columns * scheme.bits // 8)),
        TensorPlan(f"{item.name}.scales", "F16", (rows, columns // scheme.block)),
    ]


def _write(writer: SafetensorsWriter, name: str, result: QuantizedTensor) -> None:
    if result.scales is None:
        writer.write(name, result.payload)
        return
    writer.write(f"{name}.codes", result.payload)
    writer.write(f"{name}.scales", result.scales)
