"""Training text that is on every machine: the standard library of the running interpreter, library modules only.

Left out: installed packages; tests, which repeat themselves; tables and generated code (encodings, help texts, build settings
of one machine), which teach nothing; what is not UTF-8.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data", "data", "lib-dynload"}
)
_TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
_FILES = frozenset({"stringprep.py", "html/entities.py"})
_PREFIXES = ("_sysconfigdata", "config-", "__phello__")
_SMALLEST_BYTES = 512


def standard_library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def library_modules(root: Path) -> Iterator[tuple[str, str]]:
    """(path relative to `root`, text) of each usable module, in order of paths."""
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root).as_posix()
        folders = set(path.split("/")[:-1])
        if folders & (_FOLDERS | _TEST_FOLDERS) or path in _FILES or path.startswith(_PREFIXES):
            continue
        text = _read(file)
        if text is not None and len(text) >= _SMALLEST_BYTES:
            yield path, text


def python_text() -> str:
    """All modules, each behind a comment with its path."""
    modules = library_modules(standard_library())
    return "\n".join(f"# --- {path}\n{text.rstrip()}\n" for path, text in modules)


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
