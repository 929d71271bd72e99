"""GGUF files of any origin and quantization: what the header says, and what llama.cpp would say to it.

Spec: ggml's docs/gguf.md; what llama.cpp checks when it loads: ggml/src/gguf.cpp, src/llama-vocab.cpp, src/llama-model-loader.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeport.devices.gguf_header import GgufTensor, read_gguf_header
from edgeport.devices.gguf_shape import MODEL_TYPES
from edgeport.errors import UsageError
from edgeport.runtimes.inspect.document import (
    Inspection,
    Problem,
    Shapes,
    TokenizerFacts,
    bits_per_weight,
    error,
    tensor_types,
    verdict,
)
from edgeport.runtimes.inspect.gguf_problems import (
    GgufPart,
    count_of,
    embedding_rows,
    load_problems,
    text,
    text_problems,
)
from edgeport.runtimes.inspect.llama_names import BPE_TOKENIZERS, ENCODERS, LLAMA_CPP
from edgeport.runtimes.inspect.side_files import size

NEWEST_VERSION = 3
ENGINE = "llama.cpp"
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_TOKENIZER_KINDS: Mapping[str, str] = {
    "llama": "SentencePiece",
    "gpt2": "byte-level BPE",
    "bert": "WordPiece",
    "t5": "Unigram",
}


def inspect_gguf(path: Path) -> Inspection:
    """One file, or all parts of a split one when any is named. Raises UsageError for what is no GGUF or cannot be read."""
    newer = _newer_version(path)
    if newer is not None:
        return _unreadable(path, newer)
    parts, missing = _parts(path)
    metadata = parts[0].header.metadata
    tensors = [tensor for part in parts for tensor in part.header.tensors]
    architecture = text(metadata.get("general.architecture"))
    shapes = _shapes(metadata, architecture, tensors)
    refused = [*missing, *load_problems(parts)]
    size_bytes = sum(tensor.size_bytes for tensor in tensors)
    parameters = sum(_elements(tensor) for tensor in tensors)
    return Inspection(
        kind="gguf",
        name=text(metadata.get("general.name")) or path.stem,
        family=MODEL_TYPES.get(architecture, architecture) or None,
        parameters=parameters,
        shapes=shapes,
        size_bytes=size_bytes,
        bits_per_weight=bits_per_weight(size_bytes, parameters),
        tensor_types=tensor_types((tensor.kind.name, tensor.size_bytes) for tensor in tensors),
        quantization=_quantization(tensors),
        tokenizer=_tokenizer(metadata, path),
        chat_template=None if architecture in ENCODERS else "tokenizer.chat_template" in metadata,
        made_by=_made_by(metadata),
        engines=(verdict(ENGINE, [item.what for item in refused], _note(architecture)),),
        problems=(*refused, *text_problems(parts)),
    )


def _newer_version(path: Path) -> int | None:
    """The version of a GGUF file that is newer than anything llama.cpp reads here, None for all others."""
    try:
        with path.open("rb") as stream:
            first = stream.read(8)
    except OSError as failure:
        raise UsageError(f"{path} cannot be read: {failure.strerror}") from failure
    version = int.from_bytes(first[4:8], "little")
    # a big-endian file's version looks like a very large one; the header's reader tells that
    is_newer = first[:4] == b"GGUF" and NEWEST_VERSION < version < 1 << 16
    return version if is_newer else None


def _unreadable(path: Path, version: int) -> Inspection:
    what = f"GGUF version {version}, {LLAMA_CPP} reads up to {NEWEST_VERSION}"
    return Inspection(
        kind="gguf",
        name=path.stem,
        family=None,
        parameters=0,
        shapes=Shapes(),
        size_bytes=path.stat().st_size,
        bits_per_weight=None,
        tensor_types=(),
        quantization=None,
        tokenizer=None,
        chat_template=None,
        made_by=None,
        engines=(verdict(ENGINE, [what]),),
        problems=(error(what, "update llama-cpp-python, or convert the model with the version installed"),),
    )


def _parts(path: Path) -> tuple[list[GgufPart], list[Problem]]:
    """The parts that are there, the first first, and a problem for those that are not."""
    found = _SPLIT.search(path.name)
    if found is None:
        return [GgufPart(path, read_gguf_header(path, whole=False))], []
    stem, count = path.name[: found.start()], int(found.group(2))
    names = [f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    there = [path.with_name(name) for name in names if path.with_name(name).is_file()]
    problems = []
    if len(there) < count:
        missing = next(name for name in names if not path.with_name(name).is_file())
        problems.append(
            error(
                f"{missing} is missing: {len(there)} of {count} parts are here",
                "download all parts into one folder",
            )
        )
    if not there:
        there = [path]
    return [GgufPart(item, read_gguf_header(item, whole=False)) for item in there], problems


def _shapes(metadata: Mapping[str, Any], architecture: str, tensors: Sequence[GgufTensor]) -> Shapes:
    def of(key: str) -> int | None:
        """A number, or the largest of one per layer."""
        value = metadata.get(f"{architecture}.{key}")
        values = (
            [count for item in value if (count := size(item)) is not None] if isinstance(value, tuple) else []
        )
        return max(values, default=None) if values else size(value)

    heads, hidden = of("attention.head_count"), of("embedding_length")
    width = of("attention.key_length")
    rows = embedding_rows(tensors)
    return Shapes(
        layers=of("block_count"),
        hidden_size=hidden,
        heads=heads,
        kv_heads=of("attention.head_count_kv") or heads,
        head_dim=width or (hidden // heads if hidden and heads else None),
        intermediate_size=of("feed_forward_length"),
        vocab_size=rows or count_of(metadata.get("tokenizer.ggml.tokens")) or None,
        context_length=of("context_length"),
    )


def _tokenizer(metadata: Mapping[str, Any], path: Path) -> TokenizerFacts | None:
    kind = text(metadata.get("tokenizer.ggml.model"))
    if not kind:
        return None
    pre = text(metadata.get("tokenizer.ggml.pre"))
    shown = _TOKENIZER_KINDS.get(kind, kind) + (f" ({pre})" if pre and kind in BPE_TOKENIZERS else "")
    return TokenizerFacts(shown, count_of(metadata.get("tokenizer.ggml.tokens")) or None, path.name)


def _quantization(tensors: Sequence[GgufTensor]) -> str | None:
    """The type most of the matrices' bytes have; the file's own label may be that of a mix."""
    matrices = [(item.kind.name, item.size_bytes) for item in tensors if len(item.sizes) > 1]
    types = tensor_types(matrices)
    return types[0].type if types else None


def _made_by(metadata: Mapping[str, Any]) -> str | None:
    version = text(metadata.get("edgeport.version"))
    found = [f"edgeport {version}"] if version else []
    found += [
        f"{label} {value}"
        for key, label in (
            ("general.quantized_by", "quantized by"),
            ("general.author", "author"),
            ("quantize.imatrix.dataset", "importance matrix from"),
        )
        if (value := text(metadata.get(key)))
    ]
    return ", ".join(found) or None


def _note(architecture: str) -> str:
    return "for embeddings" if architecture in ENCODERS else ""


def _elements(tensor: GgufTensor) -> int:
    count = 1
    for extent in tensor.sizes:
        count *= extent
    return count
