"""Run a plan: quantize once, pack each container, prove them all, publish by one rename."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from edgeport import __version__
from edgeport.errors import GateFailure
from edgeport.export.checkpoint import Checkpoint
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.table import get_format
from edgeport.export.quantize.run import quantize
from edgeport.export.request import ExportPlan
from edgeport.export.staging import Staging
from edgeport.export.verify.artifact import WEIGHTS_NAME, Verification, verify_artifact
from edgeport.export.verify.golden import compute_golden, write_golden
from edgeport.manifest import ContainerEntry, Manifest, file_entry, write_manifest
from edgeport.progress import Progress

Result = TypeVar("Result")

TOOLS = (
    "numpy", "ml_dtypes", "gguf", "onnx", "onnxruntime", "openvino", "openvino-tokenizers", "llama-cpp-python",
    "tokenizers", "safetensors", "compressed-tensors", "transformers", "torch",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExportResult:
    manifest: Manifest
    verification: Verification
    directory: Path


def run(plan: ExportPlan, *, progress: Progress) -> ExportResult:
    """Build the artifact and rename it to `plan.request.out`.

    Raises GateFailure when a container does not verify: it is kept beside the output as `OUT.rejected`. Without
    verification (`plan.request.verify` false) the manifest says so of every container.
    """
    seconds: dict[str, float] = {}
    with Staging(plan.request.out, resume=plan.request.resume) as staging:
        checkpoint = _quantize(plan, staging, seconds, progress)
        containers = _pack(plan, checkpoint, staging, seconds, progress)
        _write_index(checkpoint, staging.final)
        write_golden(
            _timed(seconds, "golden", lambda: compute_golden(containers["safetensors"])), staging.final
        )
        manifest = _manifest(plan, checkpoint, staging.final, seconds)
        write_manifest(manifest, staging.final)
        verification = _timed(seconds, "verify", functools.partial(_verify, plan, staging.final, progress))
        manifest = _with_verdict(manifest, verification, seconds)
        write_manifest(manifest, staging.final)
        if plan.request.verify and not verification.passed:
            _reject(staging, verification)
        staging.publish()
    return ExportResult(manifest, verification, plan.request.out)


def _verify(plan: ExportPlan, directory: Path, progress: Progress) -> Verification:
    return verify_artifact(directory, progress=progress) if plan.request.verify else Verification(())


def _quantize(
    plan: ExportPlan, staging: Staging, seconds: dict[str, float], progress: Progress
) -> Checkpoint:
    directory = staging.directory / "checkpoint"
    key = _checkpoint_key(plan)

    def build(folder: Path) -> None:
        quantize(plan.source, plan.recipe, folder, threads=plan.threads, progress=progress)

    _timed(seconds, "quantize", lambda: staging.stage(directory, key, build))
    return Checkpoint(directory, plan.source.spec)


def _pack(
    plan: ExportPlan, checkpoint: Checkpoint, staging: Staging, seconds: dict[str, float], progress: Progress
) -> dict[str, Path]:
    """Folder of each container. Packed safetensors is always made: the golden answers are computed from it."""
    options = WriteOptions(plan.source.name, plan.context_length, progress)
    folders = {}
    staging.keep_only(plan.formats)
    for name in dict.fromkeys((*plan.formats, "safetensors")):
        parent = staging.final if name in plan.formats else staging.directory
        folders[name] = parent / name
        key = {
            "weights_id": checkpoint.weights_id,
            "name": plan.source.name,
            "context": plan.context_length,
            **_checkpoint_key(plan),
        }

        work = functools.partial(_write_container, name, checkpoint, options)
        _timed(seconds, f"pack {name}", functools.partial(staging.stage, folders[name], key, work))
    return folders


def _write_container(name: str, checkpoint: Checkpoint, options: WriteOptions, folder: Path) -> None:
    get_format(name).write(checkpoint, folder, options)


def _checkpoint_key(plan: ExportPlan) -> dict[str, Any]:
    """What the bytes depend on: another tool version may round or lay out differently."""
    return {
        "source": plan.source.fingerprint(),
        "recipe": plan.recipe.to_document(),
        "tools": tool_versions(),
    }


def _timed(seconds: dict[str, float], stage: str, work: Callable[[], Result]) -> Result:
    started = time.perf_counter()
    try:
        return work()
    finally:
        seconds[stage] = round(time.perf_counter() - started, 3)


def _write_index(checkpoint: Checkpoint, directory: Path) -> None:
    digests = {record.name: record.digest for record in checkpoint.records}
    (directory / WEIGHTS_NAME).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


def _manifest(
    plan: ExportPlan, checkpoint: Checkpoint, directory: Path, seconds: dict[str, float]
) -> Manifest:
    return Manifest(
        name=plan.source.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        source=plan.source.facts(),
        recipe=plan.recipe.to_document(),
        device=plan.profile.name,
        model=plan.facts,
        weights_id=checkpoint.weights_id,
        containers=tuple(_container(name, directory, checkpoint.weights_id) for name in plan.formats),
        tool_versions=tool_versions(),
        cost={"seconds": dict(seconds)},
    )


ENTRY_POINTS = {
    "gguf": "*.gguf",
    "onnx": "model.onnx",
    "openvino": "openvino_model.xml",
    "safetensors": "config.json",
}


def _container(name: str, directory: Path, identity: str) -> ContainerEntry:
    folder = directory / name
    files = tuple(file_entry(path, directory) for path in sorted(folder.rglob("*")) if path.is_file())
    entry_point = next(folder.glob(ENTRY_POINTS[name])).relative_to(directory).as_posix()
    return ContainerEntry(name, entry_point, files, sum(item.size_bytes for item in files), identity)


def _with_verdict(manifest: Manifest, verification: Verification, seconds: dict[str, float]) -> Manifest:
    containers = tuple(
        replace(entry, verified=verification.container_passed(entry.format)) for entry in manifest.containers
    )
    own, children = (
        resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    cost = {"seconds": dict(seconds), "peak_ram_bytes": own, "verify_peak_ram_bytes": children}
    return replace(manifest, containers=containers, cost=cost)


def _reject(staging: Staging, verification: Verification) -> None:
    failed = [check for check in verification.checks if not check.passed]
    told = "; ".join(f"{check.container} {check.name}: {check.detail}" for check in failed)
    aside = staging.reject()
    raise GateFailure(
        f"the export does not verify: {told}",
        hint=f"the files are kept in {aside} for a look; nothing was published",
    )


def tool_versions() -> dict[str, str]:
    """Installed versions of the packages whose behaviour an artifact depends on."""
    versions = {"edgeport": __version__}
    for name in TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
