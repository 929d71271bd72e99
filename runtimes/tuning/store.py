"""Remember what was tuned: one JSON file per container and machine, in the user's cache folder (edgeport.runtimes.cache_folder).

The key holds what makes figures comparable: processor, cores this process may use, engine and its version, the weights and their
container. With any of them changed the entry no longer applies and nothing is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.devices.cpu import read_cpu
from edgeport.devices.probe import available_threads
from edgeport.errors import EdgeportError
from edgeport.manifest import from_json, to_json
from edgeport.runtimes.bench.machine import engine_version
from edgeport.runtimes.cache_folder import cache_folder, read_cached, write_cached
from edgeport.runtimes.container import Container
from edgeport.runtimes.engine_settings import EngineSettings, check_settings, settings_from

FOLDER = "tuned"


@dataclass(frozen=True, slots=True)
class Host:
    cpu_model: str
    cores: int
    engine_version: str


@dataclass(frozen=True, slots=True)
class Tried:
    """One change that was measured. ratio: its rate over the best so far, with a 95 % interval; None where it could not run."""

    changes: Mapping[str, Any]
    verdict: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    mean_kl_divergence: float | None = None
    same_top1: float | None = None
    largest_difference: float | None = None


@dataclass(frozen=True, slots=True)
class Tuned:
    """gain: rate of the settings over the adapter's own, measured at the end; 1 when these were kept."""

    artifact: str
    format: str
    weights_id: str
    objective: str
    host: Host
    settings: Mapping[str, Any]
    gain: float
    low: float
    high: float
    seconds: float
    measured_at: str
    tried: tuple[Tried, ...] = ()
    not_tried: int = 0

    def engine_settings(self) -> EngineSettings:
        return settings_from(self.settings)


def read_host_key(format_name: str) -> Host:
    return Host(read_cpu().model, available_threads(), engine_version(format_name) or "")


def identity(container: Container) -> str:
    """The manifest's weights_id; without a manifest the files with their sizes and times."""
    if container.manifest is not None:
        return container.manifest.container(container.format).weights_id
    path = container.path.resolve()
    files = sorted(item for item in path.iterdir() if item.is_file()) if path.is_dir() else [path]
    return "|".join(f"{item}:{item.stat().st_size}:{item.stat().st_mtime_ns}" for item in files)


def remember(container: Container, tuned: Tuned) -> bool:
    """Keep it, whole or not at all; False where the cache folder cannot be written."""
    return write_cached(_name(container, tuned.host), to_json(tuned))


def recall(container: Container) -> Tuned | None:
    """What was tuned for this container on this machine; None where nothing was, or by another version."""
    try:
        document = read_cached(_name(container, read_host_key(container.format)))
        if not document:
            return None
        tuned: Tuned = from_json(Tuned, document)
        check_settings(tuned.engine_settings(), container.format)
        return tuned
    except (EdgeportError, KeyError, TypeError, OSError):
        return None


def tuned_settings(container: Container) -> EngineSettings | None:
    """Settings `edgeport tune` found for this container here; None leaves all to the adapter. Never raises for a bad cache."""
    tuned = recall(container)
    return tuned.engine_settings() if tuned is not None and tuned.settings else None


def forget(container: Container) -> bool:
    """Whether there was something to forget."""
    file = _file(container)
    existed = file.is_file()
    file.unlink(missing_ok=True)
    return existed


def _file(container: Container) -> Path:
    return cache_folder() / _name(container, read_host_key(container.format))


def _name(container: Container, host: Host) -> str:
    key = json.dumps([identity(container), container.format, to_json(host)])
    return f"{FOLDER}/{container.format}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
