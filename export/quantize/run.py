"""Quantize a source model into a checkpoint: one file of codes and scales that every writer packs.

Without calibration, workers take whole tensors and the main thread writes the results in order; rows are read from the
memory map in pieces, so that a worker holds the packed result and one piece in float32, whatever the size of the tensor.
With calibration, the layers are solved one after the other (`calibrated`), and what they left is copied in order.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeport.devices.probe import read_host
from edgeport.errors import RecipeError
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.checkpoint import SOURCE_FOLDER, PackedTensor, TensorRecord, tensor_digest, write_index
from edgeport.export.families.decoder import TensorSpec
from edgeport.export.quantize.learned import Learner, LearnSettings, require_memory
from edgeport.export.quantize.solvers import AUTO, SOLVERS
from edgeport.export.quantize.tensor import FLOAT_DTYPES, QuantizedTensor, digest_of, quantize_tensor
from edgeport.export.quantize.trained import find_trained, trained_results
from edgeport.export.recipe import Recipe
from edgeport.export.safetensors_file import SafetensorsFolder, SafetensorsWriter, TensorPlan
from edgeport.export.source import SIDE_FILES, SourceModel
from edgeport.progress import Progress
from edgeport.scheme import TensorScheme

LEARN_SETTINGS = LearnSettings()
_SHARD_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Calibration:
    """text: what is calibrated on. work: a folder that outlives a kill; the pass goes on from its last whole layer."""

    text: CalibrationText
    work: Path


def quantize(
    source: SourceModel,
    recipe: Recipe,
    directory: Path,
    *,
    calibration: Calibration | None = None,
    threads: int,
    progress: Progress,
) -> None:
    """Write a checkpoint into the existing empty `directory`; checkpoint.json comes last. Codes that were trained with the
    model are taken over as they are (`trained`).

    Raises UnsupportedModel for a weight that is not finite or not representable, RecipeError for a solver that needs
    calibration and got none, or one that is still "auto".
    """
    trained = find_trained(source, recipe)
    if trained is not None:
        with progress.stage("take over trained codes"):
            write_checkpoint(source, recipe, directory, trained_results(source, trained))
        return
    if recipe.solver == AUTO:
        raise RecipeError("the solver is still 'auto'", hint="choose_solver() turns it into a name")
    needed = SOLVERS[recipe.solver].needs != "nothing" and any_quantized(source, recipe)
    if needed and calibration is None:
        raise RecipeError(
            f"solver {recipe.solver!r} needs calibration text", hint="give --calibration, or use --solver rtn"
        )
    if needed and calibration is not None:
        _quantize_calibrated(source, recipe, directory, calibration, (threads, progress))
        return
    tensors = list(source.spec.tensors())
    with progress.stage("quantize", total=len(tensors)) as stage, ThreadPoolExecutor(threads) as pool:
        results = _in_order(pool, source, recipe, tensors, ahead=threads + 1)
        write_checkpoint(source, recipe, directory, _counted(results, stage.advance))


def any_quantized(source: SourceModel, recipe: Recipe) -> bool:
    """Whether the recipe has anything for a solver to do."""
    return any(recipe.scheme_for(item).is_quantized for item in source.spec.tensors())


def _quantize_calibrated(
    source: SourceModel,
    recipe: Recipe,
    directory: Path,
    calibration: Calibration,
    means: tuple[int, Progress],
) -> None:
    from edgeport.export.quantize.calibrated import CalibratedQuantizer

    threads, progress = means
    quantizer = CalibratedQuantizer(source, recipe, calibration.text, calibration.work, threads)
    packed = [quantizer.run(progress)]
    if SOLVERS[recipe.solver].learns:
        packed.insert(0, _learned(source, recipe, calibration, packed[0], progress))
    tensors = list(source.spec.tensors())
    with progress.stage("write checkpoint", total=len(tensors)) as stage:
        results = (_packed_result(packed, item, recipe.scheme_for(item)) for item in tensors)
        write_checkpoint(source, recipe, directory, _counted(results, stage.advance))


def _learned(
    source: SourceModel,
    recipe: Recipe,
    calibration: Calibration,
    start: SafetensorsFolder,
    progress: Progress,
) -> SafetensorsFolder:
    require_memory(source.spec.parameters(), read_host().available_bytes)
    # Below the pass's folder: when what the pass depends on changes, both are dropped.
    learner = Learner(source, recipe, calibration.text, start, LEARN_SETTINGS)
    return SafetensorsFolder(learner.run(calibration.work / "solve" / "learn", progress=progress).parent)


def _packed_result(
    packed: Sequence[SafetensorsFolder], item: TensorSpec, scheme: TensorScheme
) -> QuantizedTensor:
    """One tensor from the first folder that has it."""
    key = f"{item.name}.codes" if scheme.is_quantized else item.name
    found = next(folder for folder in packed if key in folder)
    if not scheme.is_quantized:
        payload = found.tensor(item.name)
        return QuantizedTensor(payload, None, tensor_digest(payload.astype("float32")))
    payload, scales = found.tensor(f"{item.name}.codes"), found.tensor(f"{item.name}.scales")
    tensor = PackedTensor(item.name, item.shape, scheme, payload, scales)
    return QuantizedTensor(payload, scales, digest_of(tensor))


class CheckpointSource(Protocol):
    """What a checkpoint needs to know of a model: its tensors in order, and where its small files lie."""

    @property
    def directory(self) -> Path: ...

    @property
    def spec(self) -> TensorList: ...


class TensorList(Protocol):
    def tensors(self) -> Iterator[TensorSpec]: ...


def write_checkpoint(
    source: CheckpointSource, recipe: Recipe, directory: Path, results: Iterator[QuantizedTensor]
) -> None:
    """Write results, one for each of the source's tensors in their order; checkpoint.json comes last."""
    records: list[TensorRecord] = []
    shards = _shards(list(source.spec.tensors()), recipe)
    for number, shard in enumerate(shards, start=1):
        path = directory / f"weights-{number:05d}-of-{len(shards):05d}.safetensors"
        plan = [entry for item in shard for entry in _plan(item, recipe.scheme_for(item))]
        with SafetensorsWriter(path, plan) as writer:
            for item in shard:
                result = next(results)
                _write(writer, item.name, result)
                scheme = recipe.scheme_for(item)
                records.append(TensorRecord(item.name, item.shape, scheme.kind, scheme.block, result.digest))
    copy_side_files(source.directory, directory / SOURCE_FOLDER)
    write_index(directory, records)


def _counted(
    results: Iterator[QuantizedTensor], advance: Callable[[float], None]
) -> Iterator[QuantizedTensor]:
    for result in results:
        yield result
        advance(1)


def copy_side_files(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in SIDE_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


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
        return [TensorPlan(item.name, FLOAT_DTYPES[scheme.kind], item.shape)]
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
