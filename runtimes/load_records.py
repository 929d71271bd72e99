"""Which files are known good: what they contain, and which contents an engine has loaded before.

Two tables in the cache folder. `contents` maps a file as the system knows it (device, inode, size, time of change in ns) to its
sha256, so that a large file is read once and not at every start. `loads` lists what was loaded: the sha256 of a container's
files, the engine, its version and the processor; a new engine version has to prove itself again.
A file that is altered behind the system's back (a failing disk) keeps its times: `check="always"` reads it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeport.manifest import file_entry
from edgeport.progress import NO_PROGRESS, Progress
from edgeport.runtimes.cache_folder import read_cached, write_cached

RECORDS = "known_loads.json"
_KEPT = 2000
"""Entries of each table; the oldest are dropped."""


def content_sha256s(
    files: Iterable[Path], *, read_again: bool = False, progress: Progress = NO_PROGRESS
) -> dict[Path, str]:
    """The sha256 of each file, from the table unless the file has changed or `read_again`. Raises OSError."""
    known = _table(read_cached(RECORDS), "contents")
    # before reading: a file that changes meanwhile gets an entry that is never found again
    identities = {file: _identity(file) for file in files}
    found, fresh = {}, {}
    unread = [file for file, key in identities.items() if read_again or not isinstance(known.get(key), str)]
    with progress.stage("check files (MB)", total=sum(file.stat().st_size for file in unread) / 1e6) as stage:
        for file, key in identities.items():
            if file in unread:
                fresh[key] = file_entry(file, file.parent).sha256
                stage.advance(file.stat().st_size / 1e6)
            found[file] = fresh.get(key) or known[key]
    if fresh:
        _remember("contents", fresh)
    return found


def load_key(digests: Mapping[str, str], engine: str) -> str:
    """One name for these contents (file name to sha256) in this engine."""
    lines = [engine, *(f"{name} {digest}" for name, digest in sorted(digests.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def was_loaded(key: str) -> bool:
    return key in _table(read_cached(RECORDS), "loads")


def remember_load(key: str, files: Sequence[str]) -> None:
    """`files` are for people who look into the table."""
    _remember("loads", {key: list(files)})


def forget_loads() -> None:
    """Every file is unknown again."""
    write_cached(RECORDS, {})


def _identity(file: Path) -> str:
    facts = file.stat()
    return f"{facts.st_dev}:{facts.st_ino}:{facts.st_size}:{facts.st_mtime_ns}:{facts.st_ctime_ns}"


def _remember(table: str, fresh: Mapping[str, Any]) -> None:
    # two processes may each lose the other's entry: then something is checked once more
    document = read_cached(RECORDS)
    entries = {name: kept for name, kept in _table(document, table).items() if name not in fresh} | dict(
        fresh
    )
    document[table] = dict(list(entries.items())[-_KEPT:])
    write_cached(RECORDS, document)


def _table(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = document.get(name)
    return table if isinstance(table, dict) else {}
