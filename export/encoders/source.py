"""The source encoder: a Hugging Face or sentence-transformers folder, read lazily and checked before any work."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UnsupportedModel
from edgeport.export.encoders.sentence_transformers import read_settings, side_files
from edgeport.export.encoders.spec import POSITIONS, EncoderSpec
from edgeport.export.encoders.table import ARCHITECTURES, EncoderFamily, is_encoder, read_encoder_spec
from edgeport.export.safetensors_file import SafetensorsFolder
from edgeport.export.source_config import check_side_files, check_weight_files, read_source_config
from edgeport.manifest import SourceFacts
from edgeport.runtimes.encoder_settings import EncoderSettings

_FLOATS = ("F32", "F16", "BF16", "F64")
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16


@dataclass(frozen=True, slots=True)
class EncoderSource:
    """A checked folder. Tensors are asked for by their canonical names; `names` says what the files call them."""

    directory: Path
    location: str
    name: str
    spec: EncoderSpec
    settings: EncoderSettings
    weights: SafetensorsFolder
    names: Mapping[str, str]

    def tensor(self, name: str) -> npt.NDArray[Any]:
        """A memory-mapped view; the position table without the rows that no token has."""
        values = self.weights.tensor(self.names[name])
        return values[self.spec.position_offset :] if name == POSITIONS else values

    def release(self, name: str) -> None:
        self.weights.release(self.names[name])

    def facts(self) -> SourceFacts:
        entries = [self.weights.entry(found) for found in self.names.values()]
        dtypes = Counter(entry.dtype for entry in entries)
        size_bytes = sum(entry.stop - entry.start for entry in entries)
        return SourceFacts(
            self.name, self.fingerprint(), size_bytes, dtypes.most_common(1)[0][0].lower(), self.location
        )

    def fingerprint(self) -> str:
        """sha256 over the side files and, per weight file, its size and sampled pieces, as decoders have it."""
        digest = hashlib.sha256()
        for path in side_files(self.directory):
            digest.update(path.relative_to(self.directory).as_posix().encode() + path.read_bytes())
        for path in self.weights.paths:
            size_bytes = path.stat().st_size
            digest.update(f"{path.name} {size_bytes}".encode())
            with path.open("rb") as stream:
                for offset in np.linspace(0, max(size_bytes - _SAMPLE_BYTES, 0), _SAMPLES, dtype=np.int64):
                    stream.seek(int(offset))
                    digest.update(stream.read(_SAMPLE_BYTES))
        return digest.hexdigest()


def names_encoder(model: str) -> bool:
    """Whether `model` is a folder whose config.json names an encoder. A folder that cannot be read is none: who opens it as
    a decoder says what is wrong with it."""
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and is_encoder(config)


def open_encoder_source(model: str) -> EncoderSource:
    """Open a folder. Raises UsageError for a folder without weights, UnsupportedModel with all reasons for what does not fit."""
    directory = Path(model)
    spec, family = read_encoder_spec(read_source_config(directory, ARCHITECTURES))
    check_weight_files(directory)
    check_side_files(directory)
    settings = read_settings(directory, spec)
    weights = SafetensorsFolder(directory)
    names = _resolve(directory, spec, family, weights)
    if not (directory / "tokenizer.json").is_file():
        raise UnsupportedModel(
            f"no tokenizer.json in {directory}",
            hint="save the fast tokenizer beside the weights: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        )
    return EncoderSource(directory, model, directory.resolve().name, spec, settings, weights, names)


def _resolve(
    directory: Path, spec: EncoderSpec, family: EncoderFamily, weights: SafetensorsFolder
) -> dict[str, str]:
    """What the files call each canonical tensor; names, shapes and dtypes are compared both ways, all problems told at once."""
    names, problems = {}, []
    for item in spec.tensors():
        spellings = family.candidates(item.name, spec)
        found = next((name for name in spellings if name in weights), None)
        if found is None:
            problems.append(f"{spellings[0]} is missing")
            continue
        names[item.name] = found
        entry = weights.entry(found)
        shape = item.shape
        if item.name == POSITIONS:
            shape = (shape[0] + spec.position_offset, *shape[1:])
        if entry.shape != shape:
            problems.append(f"{found} is {list(entry.shape)}, config.json says {list(shape)}")
        elif entry.dtype not in _FLOATS:
            problems.append(f"{found} is {entry.dtype}, expected one of {', '.join(_FLOATS)}")
    used = set(names.values())
    problems += [
        f"{name} is not a tensor of {spec.architecture}"
        for name in weights
        if name not in used and not family.unused.search(name)
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise UnsupportedModel(f"{directory}: weights and config.json disagree: {shown}")
    return names
