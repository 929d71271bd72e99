"""Containers of encoders: how they are told from decoders, and which adapter opens them.

An artifact's manifest says so itself (`encoder`); a bare folder by the model_type of config.json, a bare GGUF file by its
architecture.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from edgeport.devices.gguf_header import read_gguf_header
from edgeport.errors import ArtifactError, EdgeportError, UsageError
from edgeport.lazy import load
from edgeport.manifest import base_format
from edgeport.runtimes.classification import Classifier
from edgeport.runtimes.container import Container
from edgeport.runtimes.encoder import SequenceLimits
from edgeport.runtimes.engines import ENGINES, require_engine
from edgeport.runtimes.model_config import read_json
from edgeport.runtimes.session import SessionOptions
from edgeport.runtimes.window import choose_context_length

MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "distilbert", "camembert")
PADDED_POSITIONS = ("roberta", "xlm-roberta", "camembert")
"""Their first token has the position pad_token_id + 1."""
GGUF_ARCHITECTURE = "bert"

# magic, version, tensors, key-values; then a key's length and text, its type and the length of its value
_GGUF_BEGIN = struct.Struct("<4sIQQ8x20sIQ")
_GGUF_STRING, _LONGEST_NAME = 8, 64

ADAPTERS: Mapping[str, str] = {
    "openvino": "edgeport.runtimes.encoders.bert_openvino:open_encoder",
    "gguf": "edgeport.runtimes.encoders.bert_gguf:open_encoder",
    "onnx": "edgeport.runtimes.encoders.bert_onnx:open_encoder",
}
"""By format; the engine and its extra are those of edgeport.runtimes.engines."""


def is_encoder(container: Container) -> bool:
    """Whether `container` holds an encoder. What cannot be read is none: who opens it as a decoder says what is wrong."""
    if container.manifest is not None:
        return bool(container.manifest.encoder)
    kind = base_format(container.format)
    if kind not in ADAPTERS:
        return False
    try:
        if kind == "gguf":
            return _gguf_architecture(container.path) == GGUF_ARCHITECTURE
        config = read_json(container.folder / "config.json")
    except (EdgeportError, OSError):
        return False
    return config.get("model_type") in MODEL_TYPES and not config.get("is_decoder")


def open_encoder_container(format_name: str, path: Path, options: SessionOptions) -> Classifier:
    """Raises MissingExtra when the engine is not installed, RuntimeFailure when it refuses the file, ArtifactError for one that
    lacks something."""
    kind = base_format(format_name)
    if kind not in ADAPTERS:
        raise UsageError(
            f"no encoder in the format {format_name!r}", hint=f"formats are {', '.join(ADAPTERS)}"
        )
    require_engine(kind)
    opener = cast(
        "Callable[[Path, SessionOptions], Classifier]", load(ADAPTERS[kind], extra=ENGINES[kind].extra)
    )
    return opener(Path(path), options)


def read_limits(folder: Path, options: SessionOptions) -> SequenceLimits:
    """From config.json in `folder`; a context_length beyond the model's positions is a UsageError."""
    config = read_json(folder / "config.json")
    positions, vocab_size = config.get("max_position_embeddings"), config.get("vocab_size")
    if not isinstance(positions, int) or not isinstance(vocab_size, int):
        raise ArtifactError(
            f"config.json in {folder} does not say max_position_embeddings and vocab_size",
            hint="put the model's config.json beside the container",
        )
    return SequenceLimits(
        choose_context_length(options.context_length, positions - _offset(config)), vocab_size
    )


def _offset(config: Mapping[str, Any]) -> int:
    if config.get("model_type") not in PADDED_POSITIONS:
        return 0
    padding = config.get("pad_token_id", 1)
    return (padding if isinstance(padding, int) else 1) + 1


def gguf_metadata(path: Path) -> Mapping[str, Any]:
    """Key-values of the .gguf file at `path` or in that folder. Raises UsageError for a damaged one."""
    return read_gguf_header(_gguf_file(path)).metadata


def _gguf_file(path: Path) -> Path:
    return path if path.is_file() else next(iter(sorted(path.glob("*.gguf"))), path)


def _gguf_architecture(path: Path) -> str:
    """The first key by convention; a file that begins otherwise is read as far as its tensors."""
    with _gguf_file(path).open("rb") as stream:
        begin = stream.read(_GGUF_BEGIN.size + _LONGEST_NAME)
    if len(begin) >= _GGUF_BEGIN.size:
        key, kind, length = _GGUF_BEGIN.unpack_from(begin)[4:7]
        if key == b"general.architecture" and kind == _GGUF_STRING and length <= _LONGEST_NAME:
            return begin[_GGUF_BEGIN.size : _GGUF_BEGIN.size + length].decode("utf-8", "replace")
    return str(gguf_metadata(path).get("general.architecture", ""))
