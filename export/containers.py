"""Pack a checkpoint into each container of a plan, and list what was written."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeport.export.checkpoint import Checkpoint
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.table import get_format
from edgeport.export.native_plan import NativePlan
from edgeport.export.request import ExportPlan
from edgeport.export.staging import Staging
from edgeport.export.timing import Clock
from edgeport.manifest import ContainerEntry, file_entry
from edgeport.progress import Progress

ENTRY_POINTS = {
    "gguf": "*.gguf",
    "onnx": "model.onnx",
    "openvino": "openvino_model.xml",
    "safetensors": "config.json",
    "bitsandbytes": "config.json",
}


def pack(
    plan: ExportPlan,
    checkpoint: Checkpoint,
    staging: Staging,
    key: Mapping[str, Any],
    clock: Clock,
    progress: Progress,
) -> Path:
    """Write the portable containers. Packed safetensors is always made: the golden answers are computed from it, and its
    folder is returned."""
    options = WriteOptions(plan.source.name, plan.context_length, progress)
    parents = {}
    for name in dict.fromkeys((*plan.portable, "safetensors")):
        parents[name] = staging.final if name in plan.portable else staging.directory
        work = functools.partial(_write_container, name, checkpoint, options)
        full_key = {**key, **_names(plan), "weights_id": checkpoint.weights_id}
        with clock.timed(f"pack {name}"):
            staging.stage(parents[name] / name, full_key, work)
    return parents["safetensors"] / "safetensors"


def pack_native(
    plan: ExportPlan,
    staging: Staging,
    statistics: Path | None,
    key: Mapping[str, Any],
    clock: Clock,
    progress: Progress,
) -> None:
    """Write the formats with a scheme of their own, from the source itself."""
    from edgeport.export.native.table import get_native

    options = WriteOptions(plan.source.name, plan.context_length, progress)
    for name, native in plan.native.items():

        def work(folder: Path, name: str = name, native: NativePlan = native) -> None:
            used = statistics if native.needs_statistics else None
            get_native(name).write(plan.source, used, folder, options)

        with clock.timed(f"pack {name}"):
            staging.stage(staging.final / name, {**key, **_names(plan), "native": name}, work)


def container_entry(name: str, base: str, directory: Path, identity: str) -> ContainerEntry:
    """`identity`: the weights_id of the container."""
    folder = directory / name
    files = tuple(file_entry(path, directory) for path in sorted(folder.rglob("*")) if path.is_file())
    opened = entry_point(name, base, directory).relative_to(directory).as_posix()
    return ContainerEntry(name, opened, files, sum(item.size_bytes for item in files), identity)


def entry_point(name: str, base: str, directory: Path) -> Path:
    """The file that the engine of format `base` opens."""
    return next((directory / name).glob(ENTRY_POINTS[base]))


def _names(plan: ExportPlan) -> dict[str, Any]:
    return {"name": plan.source.name, "context": plan.context_length}


def _write_container(name: str, checkpoint: Checkpoint, options: WriteOptions, folder: Path) -> None:
    get_format(name).write(checkpoint, folder, options)
