"""Ask the engine of each container how it would run it, in a process of its own.

The engine opens the file with the settings `edgeport run` gives it (tuned ones, else the adapter's) and computes one token.
An engine that dies of a file takes only its own process with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeport.devices.cpu import read_cpu
from edgeport.errors import ArtifactError, MissingExtra, RuntimeFailure, UsageError
from edgeport.manifest import base_format, from_json
from edgeport.runtimes.container import Container, find_containers
from edgeport.runtimes.engine_settings import DEFAULT_SETTINGS, EngineSettings
from edgeport.runtimes.engines import ENGINES, unavailable_because
from edgeport.runtimes.fast_path.report import (
    ContainerReport,
    EngineFindings,
    FastPathReport,
    Skipped,
    container_report,
)
from edgeport.runtimes.isolation import log_tail, run_isolated
from edgeport.runtimes.tuning.store import tuned_settings

INSPECTORS = {
    "gguf": "edgeport.runtimes.fast_path.llama_cpp:inspect",
    "onnx": "edgeport.runtimes.fast_path.onnx:inspect",
    "openvino": "edgeport.runtimes.fast_path.openvino:inspect",
}
"""By base format; each is `inspect(path, settings, log) -> EngineFindings as JSON` and is called in a child process."""
_NO_KERNELS = "the reference engine is plain numpy: it has no kernels to choose from"
_ENVIRONMENT = {"EDGEPORT_ENGINE_LOG": "1"}


def check_fast_path(path: Path, *, formats: Sequence[str] = (), tuned: bool = True) -> FastPathReport:
    """Which kernels each container at `path` gets on this processor.

    formats: only these containers; empty means all whose engine is installed. tuned: with what `edgeport tune` found here.
    Raises UsageError for a format that is not there or has no kernels, MissingExtra when no engine for it is installed,
    RuntimeFailure when the engine refuses the file, ArtifactError for a damaged one.
    """
    containers = find_containers(path)
    reports, skipped = [], []
    for container in _chosen(containers, formats):
        reason = _not_checked_because(container)
        if reason is None:
            settings = tuned_settings(container) if tuned else None
            reports.append(_check(container, settings or DEFAULT_SETTINGS))
        elif formats:
            raise _refusal(container, reason)
        else:
            skipped.append(Skipped(container.format, reason))
    if not reports:
        raise MissingExtra(
            "nothing here can be checked: " + "; ".join(f"{item.format}: {item.reason}" for item in skipped),
            hint="install the engine of one of the containers",
        )
    cpu = read_cpu()
    fast = all(report.fast for report in reports)
    return FastPathReport(cpu.model, cpu.isa, fast, tuple(reports), tuple(skipped))


def _chosen(containers: Sequence[Container], formats: Sequence[str]) -> list[Container]:
    by_format = {container.format: container for container in containers}
    for name in formats:
        if name not in by_format:
            raise UsageError(f"no {name!r} container here", hint=f"there is {', '.join(by_format)}")
    return [by_format[name] for name in formats] if formats else list(containers)


def _not_checked_because(container: Container) -> str | None:
    kind = base_format(container.format)
    if kind not in INSPECTORS:
        return _NO_KERNELS if kind in ENGINES else f"edgeport has no engine for {container.format}"
    return unavailable_because(kind)


def _refusal(container: Container, reason: str) -> UsageError | MissingExtra:
    if base_format(container.format) in INSPECTORS:
        message, _, hint = reason.partition(": ")
        return MissingExtra(message, hint=hint)
    return UsageError(
        f"{container.format} cannot be checked: {reason}", hint=f"checked are {', '.join(INSPECTORS)}"
    )


def _check(container: Container, settings: EngineSettings) -> ContainerReport:
    with tempfile.TemporaryDirectory(prefix="edgeport-fast-path-") as folder:
        log = Path(folder) / "engine.log"
        log.touch()
        target = INSPECTORS[base_format(container.format)]
        arguments = {
            "path": str(container.path.resolve()),
            "settings": settings.chosen(),
            "log": str(log),
        }
        try:
            found = run_isolated(target, arguments, environment=_ENVIRONMENT)
        except (RuntimeFailure, ArtifactError) as error:
            # The engine's log went to a file of ours, so that a crash is not explained by the child's own stderr.
            raise type(error)(error.message + log_tail(log), hint=error.hint) from error
    findings: EngineFindings = from_json(EngineFindings, found)
    return container_report(container.format, str(container.path), str(settings), findings)
