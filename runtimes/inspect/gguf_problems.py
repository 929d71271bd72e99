"""What is wrong with a GGUF file: what llama.cpp refuses to load, and what it loads and does badly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.devices.gguf_header import DEFAULT_ALIGNMENT, ArrayLength, GgufHeader, GgufTensor
from edgeport.runtimes.inspect.document import Problem, error, warning
from edgeport.runtimes.inspect.equal_bytes import StoredAt, are_equal
from edgeport.runtimes.inspect.llama_names import (
    ARCHITECTURES,
    BPE_TOKENIZERS,
    ENCODERS,
    LLAMA_CPP,
    PRE_TOKENIZERS,
    TOKENIZERS,
)
from edgeport.runtimes.inspect.side_files import size

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
NO_TOKENIZERS = ("no_vocab", "none")
_UNKNOWN_TYPE = re.compile(r"type \d+")
_AGAIN = "convert the model again with a current converter, or download it again"


@dataclass(frozen=True, slots=True)
class GgufPart:
    """One file of a model; most models have one."""

    path: Path
    header: GgufHeader


def load_problems(parts: Sequence[GgufPart]) -> Iterator[Problem]:
    """What llama.cpp refuses to load."""
    yield from _file_problems(parts)
    metadata = parts[0].header.metadata
    tensors = [tensor for part in parts for tensor in part.header.tensors]
    architecture = text(metadata.get("general.architecture"))
    if architecture not in ARCHITECTURES:
        yield error(
            f"architecture {architecture or 'not named'!r:.60} is unknown to {LLAMA_CPP}",
            "update llama-cpp-python; edgeport has no other engine for GGUF",
        )
    elif f"{architecture}.context_length" not in metadata:
        yield error(f"there is no {architecture}.context_length", _AGAIN)
    if not any(tensor.name == EMBEDDING for tensor in tensors):
        yield error(f"there is no {EMBEDDING}: this is no model, or only a part of one", _AGAIN)
    kind, pre = (metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind not in TOKENIZERS:
        yield error(f"tokenizer.ggml.model is {kind!r:.40}, which {LLAMA_CPP} does not know", _AGAIN)
    elif is_split_first(kind) and isinstance(pre, str) and pre and pre not in PRE_TOKENIZERS:
        yield error(
            f"tokenizer.ggml.pre is {pre!r:.60}, which {LLAMA_CPP} does not know", "update llama-cpp-python"
        )
    count, rows = count_of(metadata.get("tokenizer.ggml.tokens")), embedding_rows(tensors)
    if rows is not None and rows < count:
        yield error(f"the vocabulary has {count} tokens, the embedding {rows} rows", _AGAIN)


def text_problems(parts: Sequence[GgufPart]) -> Iterator[Problem]:
    """What llama.cpp loads, and then reads or writes badly."""
    metadata = parts[0].header.metadata
    architecture = text(metadata.get("general.architecture"))
    if metadata.get(f"{architecture}.context_length", 1) == 0:
        yield error(f"{architecture}.context_length is 0: there is no room for a prompt", _AGAIN)
    kind, pre = (metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if is_split_first(kind) and (not isinstance(pre, str) or not pre):
        yield error(
            "no tokenizer.ggml.pre: llama.cpp splits text by a rule of its own, and the tokens are wrong",
            _AGAIN,
        )
    elif is_split_first(kind) and pre == "default":
        yield warning(
            "tokenizer.ggml.pre is 'default', which is the rule of few models: tokens may be wrong",
            "compare the tokens of a text with those of the source's tokenizer, or convert again",
        )
    count = count_of(metadata.get("tokenizer.ggml.tokens"))
    for name in ("bos", "eos"):
        number = size(metadata.get(f"tokenizer.ggml.{name}_token_id"))
        if number is not None and count and number >= count:
            yield error(f"tokenizer.ggml.{name}_token_id is {number}, there are {count} tokens", _AGAIN)
    if architecture not in ENCODERS and kind not in NO_TOKENIZERS:
        yield from _chat_problems(metadata)
    yield from _twice_stored(parts[0])


def _chat_problems(metadata: Mapping[str, Any]) -> Iterator[Problem]:
    if "tokenizer.ggml.eos_token_id" not in metadata:
        yield error(
            "no tokenizer.ggml.eos_token_id: llama.cpp takes a number of its own as the end of a text",
            "convert the model again from a folder whose config.json has eos_token_id",
        )
    if "tokenizer.chat_template" not in metadata:
        yield warning(
            "there is no chat template: only plain prompts can be continued",
            "convert a model that has one, or gguf_new_metadata.py --chat-template",
        )


def _file_problems(parts: Sequence[GgufPart]) -> Iterator[Problem]:
    """Tensors that do not lie where the file can hold them, and types nobody knows."""
    for part in parts:
        header, file_bytes = part.header, part.path.stat().st_size
        beyond = [item for item in header.tensors if header.data_begin + _end(item) > file_bytes]
        if beyond:
            end = header.data_begin + max(map(_end, beyond))
            yield error(
                f"{part.path.name} has {file_bytes} bytes, its tensors end at {end}: {len(beyond)} of "
                f"{len(header.tensors)} are not whole",
                "the download or the copy was cut short: fetch the file again",
            )
        elif (misplaced := _misplaced(header)) is not None:
            yield error(f"tensor {misplaced.name!r:.80} overlaps another or leaves a gap", _AGAIN)
        unknown = [item for item in header.tensors if _UNKNOWN_TYPE.fullmatch(item.kind.name)]
        if unknown:
            yield error(
                f"{len(unknown)} tensors have {unknown[0].kind.name}, which {LLAMA_CPP} does not know or no longer reads",
                "quantize the float model again with the installed version, or update llama-cpp-python",
            )


def _misplaced(header: GgufHeader) -> GgufTensor | None:
    """The first tensor that does not begin where the one before it ends, as llama.cpp demands."""
    alignment = header.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    expected: int | None = 0
    for tensor in header.tensors:
        if expected is not None and tensor.offset_bytes != expected:
            return tensor
        is_known = _UNKNOWN_TYPE.fullmatch(tensor.kind.name) is None
        expected = -(-_end(tensor) // alignment) * alignment if is_known else None
    return None


def _twice_stored(part: GgufPart) -> Iterator[Problem]:
    by_name = {tensor.name: tensor for tensor in part.header.tensors}
    embedding, head = by_name.get(EMBEDDING), by_name.get(HEAD)
    if embedding is None or head is None or embedding.kind != head.kind:
        return
    places = [
        StoredAt(part.path, part.header.data_begin + tensor.offset_bytes, tensor.size_bytes)
        for tensor in (embedding, head)
    ]
    if are_equal(*places):
        yield warning(
            f"the output head repeats the embedding: {head.size_bytes} bytes are stored and read twice",
            f"leave {HEAD} out: llama.cpp then takes {EMBEDDING} for both",
        )


def is_split_first(kind: Any) -> bool:
    """Whether a tokenizer splits text by a pre-tokenizer that the file has to name."""
    return kind in BPE_TOKENIZERS and kind != "gemma4"


def embedding_rows(tensors: Sequence[GgufTensor]) -> int | None:
    return next((tensor.sizes[-1] for tensor in tensors if tensor.name == EMBEDDING), None)


def _end(tensor: GgufTensor) -> int:
    return tensor.offset_bytes + tensor.size_bytes


def count_of(value: Any) -> int:
    """Entries of an array of the header, kept or stepped over."""
    if isinstance(value, ArrayLength):
        return value.count
    return len(value) if isinstance(value, tuple) else 0


def text(value: Any) -> str:
    return value[:200] if isinstance(value, str) else ""
