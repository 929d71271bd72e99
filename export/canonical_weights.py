"""The tensors of a source folder by their canonical names, whatever the family's own layout (edgeport.export.families.storage)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.families.storage import Stored, where_stored
from edgeport.export.safetensors_file import DTYPES, SafetensorsFolder, TensorEntry

_WHOLE = Stored("")


class CanonicalWeights:
    """A SafetensorsFolder seen through the storage of a family. A name that the spec does not have is the folder's own."""

    def __init__(self, folder: SafetensorsFolder, spec: DecoderSpec) -> None:
        self.folder = folder
        plain = spec.storage.is_plain
        self._places = {} if plain else where_stored(spec.storage, spec.tensors())

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.folder.paths

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._place(name).name in self.folder

    def __iter__(self) -> Iterator[str]:
        """The names in the folder, not the canonical ones."""
        return iter(self.folder)

    def entry(self, name: str) -> TensorEntry:
        """The bytes of the tensor in its file; rows of a fused matrix lie together."""
        place = self._place(name)
        entry = self.folder.entry(place.name)
        if place.rows is None:
            return entry
        begin, end = place.rows
        row_bytes = DTYPES[entry.dtype].itemsize * int(np.prod(entry.shape[1:], dtype=np.int64))
        return replace(
            entry,
            name=name,
            shape=(end - begin, *entry.shape[1:]),
            start=entry.start + begin * row_bytes,
            stop=entry.start + end * row_bytes,
        )

    def tensor(self, name: str) -> npt.NDArray[Any]:
        """A read-only view; float32 where the storage adds something to the stored values."""
        place = self._place(name)
        values = self.folder.tensor(place.name)
        if place.rows is not None:
            values = values[place.rows[0] : place.rows[1]]
        return values.astype(np.float32) + np.float32(place.added) if place.added else values

    def release(self, name: str) -> None:
        """Drops the pages of the whole stored tensor: the others in it are read again from the file."""
        self.folder.release(self._place(name).name)

    def _place(self, name: str) -> Stored:
        return self._places.get(name) or replace(_WHOLE, name=name)
