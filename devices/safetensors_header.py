"""The header of a safetensors file: names, types, shapes and places, each checked against the file before it is believed.

Specification: https://huggingface.co/docs/safetensors (format). No weight is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError

LARGEST_HEADER_BYTES = 100_000_000
MOST_ELEMENTS = 1 << 60
MOST_DIMENSIONS = 16
LONGEST_NAME = 200
"""Of a file: longer ones no system takes."""
INDEX_NAME = "model.safetensors.index.json"
ELEMENT_BITS: Mapping[str, int] = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """begin, end: bytes in the file. parameters: elements as stored, of a packed tensor fewer than weights."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.begin


def read_safetensors_header(path: Path, *, whole: bool = True) -> tuple[StoredTensor, ...]:
    """Every tensor of one file. Raises UsageError for a file that is none, is damaged or cut short.

    whole: False also takes a file that ends before its tensors do, for a look at it.
    """
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            if not 2 <= header_bytes <= min(LARGEST_HEADER_BYTES, file_bytes - 8):
                raise _unusable(
                    path, f"its header would have {header_bytes} bytes, the file has {file_bytes}"
                )
            document = json.loads(stream.read(header_bytes), object_pairs_hook=_without_duplicates)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except _DuplicateName as error:
        raise _unusable(path, f"{error.args[0]!r:.80} comes twice in its header") from error
    except (ValueError, RecursionError) as error:
        raise _unusable(path, f"its header is not JSON ({type(error).__name__})") from error
    if not isinstance(document, dict):
        raise _unusable(path, "its header is not a JSON object")
    data = 8 + header_bytes
    room = file_bytes if whole else MOST_ELEMENTS
    found = [
        _tensor(path, name, item, data, room) for name, item in document.items() if name != "__metadata__"
    ]
    return tuple(sorted(found, key=lambda tensor: tensor.begin))


def read_safetensors_folder(folder: Path) -> tuple[StoredTensor, ...]:
    """Every tensor of a folder: of the files its index names, or of all *.safetensors where there is no index."""
    index = folder / INDEX_NAME
    if not index.is_file():
        return tuple(
            tensor
            for path in sorted(folder.glob("*.safetensors"))
            for tensor in read_safetensors_header(path)
        )
    try:
        document = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{index} cannot be read as JSON") from error
    places = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise UsageError(f"{index} has no weight_map of names to files")
    found: dict[str, StoredTensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or len(name) > LONGEST_NAME or not (folder / name).is_file():
            raise UsageError(f"{index} names the file {name!r:.80}, which is not in {folder}")
        found |= {tensor.name: tensor for tensor in read_safetensors_header(folder / name)}
    missing = sorted(set(places) - set(found))
    if missing:
        raise UsageError(
            f"{index} names {missing[0]!r:.80}, which its file does not hold ({len(missing)} in all)"
        )
    return tuple(found.values())


class _DuplicateName(ValueError):
    pass


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The specification forbids them; json.loads alone would keep the last one silently."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _DuplicateName(name)
        found[name] = value
    return found


def _tensor(path: Path, name: str, item: Any, data: int, file_bytes: int) -> StoredTensor:
    entry = item if isinstance(item, dict) else {}
    dtype, shape, places = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ELEMENT_BITS:
        raise _unusable(path, f"{name!r:.80} has the unknown type {dtype!r:.20}")
    shape, places = _sizes(shape), _sizes(places)
    if shape is None or places is None or len(places) != 2 or len(shape) > MOST_DIMENSIONS:
        raise _unusable(path, f"{name!r:.80} has no usable shape and data_offsets")
    elements = 1
    for size in shape:
        elements *= size
    begin, end = places
    if elements > MOST_ELEMENTS or end - begin != -(-elements * ELEMENT_BITS[dtype] // 8):
        raise _unusable(path, f"{name!r:.80} of shape {shape!r:.60} takes {end - begin} bytes")
    if data + end > file_bytes:
        raise _unusable(path, f"{name!r:.80} ends at {data + end}, the file at {file_bytes}: it is cut short")
    return StoredTensor(name, dtype, tuple(shape), data + begin, data + end)


def _sizes(value: Any) -> list[int] | None:
    """A list of whole numbers that are not negative, None for anything else."""
    usable = isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < MOST_ELEMENTS for item in value
    )
    return value if usable else None


def _unusable(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{path.name} is no usable safetensors file: {what}",
        hint="download it again, or save the model again",
    )
