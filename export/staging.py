"""A hidden folder beside the output in which an export is built: stages are renamed in when whole, and survive a kill.

`OUT` appears by one rename when everything is verified; until then nothing of that name exists. A stage is redone when
its key (source, recipe, versions) has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeport.errors import UsageError


class Staging:
    """Use as a context manager: it holds a lock, so that two exports cannot build the same output at once."""

    def __init__(self, out: Path, *, resume: bool) -> None:
        self.out = out.absolute()
        self.directory = self.out.with_name(f".{self.out.name}.edgeport-partial")
        self.final = self.directory / "final"
        self._resume = resume
        self._lock: int | None = None

    def __enter__(self) -> Staging:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise UsageError(
                f"another export is writing {self.out}", hint="wait for it, or give another -o"
            ) from error
        replaced = self.directory / "replaced"
        if replaced.exists() and not self.out.exists():
            replaced.rename(self.out)  # a kill between the two renames of `publish`
        if not self._resume:
            for path in self.directory.iterdir():
                if path.name != "lock":
                    _remove(path)
        self.final.mkdir(exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def keep_only(self, names: Collection[str]) -> None:
        """Drop what an earlier, killed export with other formats left in `final`: it would be published unlisted."""
        for path in self.final.iterdir():
            if path.name not in names:
                _remove(path)

    def stage(self, target: Path, key: Mapping[str, Any], build: Callable[[Path], None]) -> bool:
        """Make folder `target` with `build`, unless it is there whole under the same key; True when it was reused."""
        digest = _digest(key)
        mark = self.directory / f"{target.name}.stage"
        if target.is_dir() and mark.is_file() and mark.read_text(encoding="utf-8") == digest:
            return True
        mark.unlink(missing_ok=True)
        work = self.directory / f"{target.name}.part"
        _remove(work)
        _remove(target)
        work.mkdir()
        build(work)
        work.replace(target)
        _write_mark(mark, digest)
        return False

    def scratch(self, name: str, key: Mapping[str, Any]) -> Path:
        """Folder `name` for work that resumes within a stage: kept over a kill, emptied when its key has changed."""
        folder, mark = self.directory / name, self.directory / f"{name}.scratch"
        digest = _digest(key)
        if not (folder.is_dir() and mark.is_file() and mark.read_text(encoding="utf-8") == digest):
            mark.unlink(missing_ok=True)
            _remove(folder)
            folder.mkdir()
            _write_mark(mark, digest)
        return folder

    def publish(self) -> None:
        """Rename `final` to the output, replacing an older one, and drop the rest."""
        old = self.directory / "replaced"
        _remove(old)
        if self.out.exists():
            self.out.rename(old)
        self.final.rename(self.out)
        shutil.rmtree(self.directory)

    def discard(self) -> None:
        """Drop everything: what was built served its purpose and is not to be published."""
        shutil.rmtree(self.directory)

    def reject(self) -> Path:
        """Keep what failed its checks aside, under a name that says so."""
        aside = self.out.with_name(self.out.name + ".rejected")
        _remove(aside)
        self.final.rename(aside)
        shutil.rmtree(self.directory)
        return aside


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _write_mark(mark: Path, digest: str) -> None:
    """Whole or not at all: a kill between creating and filling the mark would throw a finished stage away."""
    part = mark.with_name(mark.name + "-part")
    part.write_text(digest, encoding="utf-8")
    part.replace(mark)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
