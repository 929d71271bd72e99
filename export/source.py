"""The source model: a Hugging Face folder (or a hub id, on request), read lazily and checked before any work."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UnsupportedModel, UsageError
from edgeport.export.canonical_weights import CanonicalWeights
from edgeport.export.families.decoder import HEAD, DecoderSpec
from edgeport.export.families.storage import stored_shapes
from edgeport.export.safetensors_file import SafetensorsFolder
from edgeport.export.source_config import check_side_files, check_weight_files, read_source_spec
from edgeport.lazy import missing_extra
from edgeport.manifest import SourceFacts

SIDE_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_FETCHED = ("*.safetensors", "quantized/checkpoint.json", *SIDE_FILES)
"""Of a hub repository; the second belongs to codes that were trained with the model (`quantize.trained`)."""
_FLOATS = ("F32", "F16", "BF16", "F64")
_IGNORED = re.compile(r"\.rotary_emb\.inv_freq$|\.attention\.(masked_)?bias$")


@dataclass(frozen=True, slots=True)
class SourceModel:
    """A checked model folder. `weights` maps canonical names to memory-mapped arrays; nothing is in memory yet."""

    directory: Path
    location: str
    name: str
    spec: DecoderSpec
    weights: CanonicalWeights

    def tensor(self, name: str) -> npt.NDArray[Any]:
        return self.weights.tensor(name)

    def facts(self) -> SourceFacts:
        dtypes = Counter(self.weights.entry(item.name).dtype for item in self.spec.tensors())
        size_bytes = sum(
            self.weights.entry(item.name).stop - self.weights.entry(item.name).start
            for item in self.spec.tensors()
        )
        return SourceFacts(
            self.name, self.fingerprint(), size_bytes, dtypes.most_common(1)[0][0].lower(), self.location
        )

    def fingerprint(self) -> str:
        """sha256 over the side files and, per weight file, its header, its size and 64 sampled pieces of 64 KiB.

        Hashing every byte of a large model takes longer than quantizing it; the checkpoint's digests cover the rest.
        """
        digest = hashlib.sha256()
        for name in SIDE_FILES:
            path = self.directory / name
            if path.is_file():
                digest.update(name.encode() + path.read_bytes())
        for path in self.weights.paths:
            size_bytes = path.stat().st_size
            digest.update(f"{path.name} {size_bytes}".encode())
            with path.open("rb") as stream:
                for offset in np.linspace(0, max(size_bytes - (1 << 16), 0), 64, dtype=np.int64):
                    stream.seek(int(offset))
                    digest.update(stream.read(1 << 16))
        return digest.hexdigest()


def open_source(model: str) -> SourceModel:
    """Open a folder, or a hub id `owner/name`, which is the only case that touches the network.

    Raises UsageError for a folder without weights, UnsupportedModel for a family or tensors that do not fit.
    """
    directory = Path(model)
    if not directory.is_dir():
        directory = _fetch(model)
    spec = read_source_spec(directory)
    check_weight_files(directory)
    weights = CanonicalWeights(SafetensorsFolder(directory), spec)
    source = SourceModel(directory, model, directory.resolve().name, spec, weights)
    _check_tensors(source)
    if not (directory / "tokenizer.json").is_file():
        raise UnsupportedModel(
            f"no tokenizer.json in {directory}",
            hint="save the fast tokenizer beside the weights: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        )
    check_side_files(directory)
    return source


def _check_tensors(source: SourceModel) -> None:
    """Required and unused names, shapes and dtypes are compared both ways; all problems are told at once."""
    problems = []
    folder = source.weights.folder
    expected = stored_shapes(source.spec.storage, source.spec.tensors())
    for name, shape in expected.items():
        if name not in folder:
            problems.append(f"{name} is missing")
        elif folder.entry(name).shape != shape:
            problems.append(f"{name} is {list(folder.entry(name).shape)}, config.json says {list(shape)}")
        elif folder.entry(name).dtype not in _FLOATS:
            problems.append(f"{name} is {folder.entry(name).dtype}, expected one of {', '.join(_FLOATS)}")
    tied_copy = {HEAD} if source.spec.tied_embeddings else set()
    unknown = [
        name
        for name in folder
        if name not in expected and name not in tied_copy and not _IGNORED.search(name)
    ]
    problems.extend(f"{name} is not a tensor of family {source.spec.family}" for name in unknown)
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise UnsupportedModel(
            f"{source.directory}: weights and config.json disagree: {shown}",
            hint="take config.json and weights of one revision; another architecture needs its own name in config.json",
        )


def _fetch(model: str) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith("."):
        raise UsageError(
            f"no such model folder: {model}",
            hint="give a folder with config.json and *.safetensors, or a hub id owner/name",
        )
    with missing_extra("export", purpose=f"fetching {model}"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    try:
        return Path(snapshot_download(model, allow_patterns=list(_FETCHED)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UsageError(f"no folder '{model}' here, and the hub did not give it: {error}") from error
