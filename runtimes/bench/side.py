"""One side of a comparison, as a user names it: an artifact, a format, settings, or several of them with commas.

models/a            the artifact folder, or a model file or folder of any origin
gguf                a container of the artifact both sides share
threads=1           a setting; those of `edgeport tune`, and `context_length`
models/a,gguf,threads=2,key_cache=q8_0
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeport.errors import UsageError
from edgeport.manifest import MANIFEST_NAME, ContainerEntry, Manifest
from edgeport.runtimes.bench.selection import choose_containers
from edgeport.runtimes.bench.subject import open_subject
from edgeport.runtimes.engine_settings import EngineSettings, check_settings, parse_settings
from edgeport.runtimes.threads import thread_count

CONTEXT = "context_length"


@dataclass(frozen=True, slots=True)
class Side:
    """label: in the user's words. settings: only those that were named; threads are the physical cores where none were."""

    label: str
    artifact: str
    directory: str
    format: str
    entry_point: str
    weights_id: str
    threads: int
    settings: EngineSettings
    context_length: int | None
    largest_context: int
    kv_bytes_per_token: int

    @property
    def path(self) -> Path:
        return Path(self.directory) / self.entry_point


def parse_side(
    text: str, directory: Path | None, *, format_name: str | None = None, threads: int | None = None
) -> Side:
    """directory, format_name and threads: what holds where the side does not say otherwise.

    Raises UsageError for words nobody understands, ArtifactError for a format the artifact lacks.
    """
    words = [word for word in text.split(",") if word]
    folders = [word for word in words if _is_model(word)]
    settings = [word for word in words if "=" in word and word not in folders]
    formats = [word for word in words if word not in folders and word not in settings]
    where = Path(folders[0]) if folders else directory
    if where is None:
        raise UsageError(
            f"'{text}' names no artifact folder", hint="name one before --compare, or on both sides of it"
        )
    subject = open_subject(where)
    manifest = subject.manifest
    if len(folders) > 1 or len(formats) > 1:
        raise UsageError(f"'{text}' names more than one artifact or format", hint="one side is one container")
    entry = _entry(manifest, formats[0] if formats else format_name, text)
    context = [word.partition("=")[2] for word in settings if word.startswith(f"{CONTEXT}=")]
    chosen = parse_settings(word for word in settings if not word.startswith(f"{CONTEXT}="))
    check_settings(chosen, entry.format)
    return Side(
        label=text,
        artifact=manifest.name,
        directory=str(subject.directory),
        format=entry.format,
        entry_point=entry.entry_point,
        weights_id=entry.weights_id,
        threads=thread_count(chosen.threads if chosen.threads is not None else threads),
        settings=chosen,
        context_length=_count(context[0]) if context else None,
        largest_context=manifest.model.context_length,
        kv_bytes_per_token=manifest.model.kv_bytes_per_token,
    )


def _is_model(word: str) -> bool:
    """An artifact, or the path of a model; a bare word may be the name of a format, whatever folders lie here."""
    path = Path(word)
    return (path / MANIFEST_NAME).is_file() or path.is_file() or (len(path.parts) > 1 and path.is_dir())


def _entry(manifest: Manifest, format_name: str | None, text: str) -> ContainerEntry:
    held = [entry.format for entry in manifest.containers]
    if format_name is not None and format_name not in held:
        raise UsageError(
            f"'{format_name}' in '{text}' is neither an artifact folder nor a container of '{manifest.name}'",
            hint=f"it holds {', '.join(held)}; settings are written name=value, as threads=2",
        )
    return choose_containers(manifest, [format_name] if format_name else None)[0][0]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{CONTEXT} is {text!r}", hint="it is a number of tokens")
    return int(text)
