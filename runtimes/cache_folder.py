"""Where edgeport keeps what it found out about this machine: one folder of the user, which may be deleted at any time.

EDGEPORT_CACHE names another one. Otherwise `edgeport` in the place the system has for such files: $XDG_CACHE_HOME or ~/.cache
(XDG Base Directory Specification), ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "EDGEPORT_CACHE"


def cache_folder() -> Path:
    """The folder's path; it need not exist."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else _system_folder() / "edgeport"


def read_cached(name: str) -> dict[str, Any]:
    """The JSON object kept under `name`; empty when there is none or it cannot be read: a cache is never worth an error."""
    try:
        document = json.loads((cache_folder() / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def write_cached(name: str, document: Mapping[str, Any]) -> bool:
    """Keep a JSON object under `name`, whole or not at all; False where the folder cannot be written."""
    file = cache_folder() / name
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with open(descriptor, "w", encoding="utf-8") as stream:
            json.dump(document, stream, indent=1)
        os.replace(temporary, file)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        return False
    return True


def _system_folder() -> Path:
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    folder = os.environ.get("XDG_CACHE_HOME", "")
    return Path(folder) if os.path.isabs(folder) else home / ".cache"
