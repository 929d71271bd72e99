"""Read text from a file, a folder or the `datasets` library: a bounded amount, the same bytes every time."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeport.errors import UsageError
from edgeport.lazy import missing_extra

_PIECES = 64
"""A file above its share is read as this many slices, evenly spread, cut at line ends."""
_BETWEEN = "\n\n"
_JSON_LINES = ".jsonl"


def read_path(path: Path, most_bytes: int) -> str:
    """Text of a UTF-8 file or of all text files below a folder, in order of their paths; about `most_bytes` at most.

    `.jsonl`: the field "text" of each line. Raises UsageError for what is not text, naming file and line.
    """
    files = [path] if path.is_file() else _text_files(path)
    sizes = [item.stat().st_size for item in files]
    share = min(1.0, most_bytes / max(sum(sizes), 1))
    texts = [_read_file(item, int(size * share)) for item, size in zip(files, sizes, strict=True)]
    return _BETWEEN.join(texts)


def _text_files(folder: Path) -> list[Path]:
    files = sorted(
        (item for item in folder.rglob("*") if item.is_file() and not _is_hidden(item.relative_to(folder))),
        key=lambda item: item.relative_to(folder).as_posix(),
    )
    texts = [item for item in files if _looks_like_text(item)]
    if not texts:
        raise UsageError(
            f"no text file among the {len(files)} files of {folder}", hint="text is UTF-8 without NUL bytes"
        )
    return texts


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _looks_like_text(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(1 << 12)
    try:
        # Not final: the last character may be cut.
        return b"\0" not in start and bool(codecs.getincrementaldecoder("utf-8")().decode(start))
    except UnicodeDecodeError:
        return False


def _read_file(path: Path, most_bytes: int) -> str:
    try:
        raw = _slices(path, most_bytes)
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"text {path} cannot be read: {error}", hint="give UTF-8 text") from error
    return _BETWEEN.join(_json_texts(path, text)) if path.suffix == _JSON_LINES else text


def _slices(path: Path, most_bytes: int) -> bytes:
    """The whole file, or evenly spread slices of whole lines; UTF-8 is never cut inside a character by that."""
    size_bytes = path.stat().st_size
    if size_bytes <= most_bytes:
        return path.read_bytes()
    pieces = []
    length = max(most_bytes // _PIECES, 1)
    with path.open("rb") as stream:
        for offset in np.linspace(0, size_bytes - length, _PIECES, dtype=np.int64).tolist():
            stream.seek(offset)
            if offset:
                stream.readline()
            piece = stream.read(length)
            pieces.append(piece + stream.readline())
    return b"".join(pieces)


def _json_texts(path: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: not JSON: {error}") from error
        found = document.get("text") if isinstance(document, dict) else None
        if not isinstance(found, str):
            raise UsageError(
                f'{path}, line {number}: no field "text" with a string',
                hint='write {"text": "..."} on each line',
            )
        yield found


def read_dataset(name: str, split: str, column: str | None, most_bytes: int) -> str:
    """Rows from the start of a data set of the `datasets` library: a hub id, or a folder of parquet, CSV or JSON lines.

    Rows are streamed, so a data set of terabytes costs what is read of it. `column` None: "text", or the only one that
    holds strings. Raises UsageError for an unknown data set, split or column; MissingExtra without the library.
    """
    with missing_extra("datasets", purpose=f"reading the data set {name}"):
        import datasets
    try:
        rows = datasets.load_dataset(name, split=split, streaming=True)
        texts, size_bytes = [], 0
        for row in rows:
            column = column or _text_column(name, row)
            if not isinstance(row.get(column), str):
                raise UsageError(
                    f"data set {name}: column {column!r} holds no text", hint=f"columns are {', '.join(row)}"
                )
            texts.append(row[column])
            size_bytes += len(row[column].encode())
            if size_bytes >= most_bytes:
                break
    except UsageError:
        raise
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise UsageError(
            f"data set {name} (split {split}) cannot be read: {error}",
            hint="write owner/name:split:column; the hub needs a network, a file or folder does not",
        ) from error
    return _BETWEEN.join(texts)


def _text_column(name: str, row: dict[str, Any]) -> str:
    strings = [column for column, value in row.items() if isinstance(value, str)]
    if "text" in strings:
        return "text"
    if len(strings) == 1:
        return strings[0]
    raise UsageError(
        f'data set {name} has no column "text"',
        hint=f"name one: {name}:SPLIT:COLUMN; with strings: {', '.join(strings)}",
    )
