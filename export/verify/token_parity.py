"""Does a GGUF file's vocabulary cut text into the very tokens tokenizer.json does?

llama.cpp tokenizes with its own code after a description in the file; a wrong merge or pre-tokenizer name loads without
a word and costs quality silently. Compared are token ids over texts meant to be hard, and the bytes of every token.
llama.cpp runs in a child process, because a failed assertion in it ends the process.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgeport.errors import GateFailure, MissingExtra, RuntimeFailure
from edgeport.export.verify.token_texts import TEXTS, special_token_texts
from edgeport.runtimes.isolation import run_isolated

_SHOWN_CHARACTERS = 60


def require_engine() -> None:
    """Raises MissingExtra when llama-cpp-python is not installed, before work that could not be proven starts."""
    if importlib.util.find_spec("llama_cpp") is None:
        raise MissingExtra(
            "checking a GGUF file's tokenizer needs the package 'llama_cpp', which is not installed",
            hint="pip install 'edgeport[gguf]'",
        )


def check_token_parity(path: Path, tokenizer_directory: Path, lines: Sequence[str] = ()) -> None:
    """Compare the vocabulary of GGUF file `path` with `tokenizer_directory`/tokenizer.json on built-in texts and `lines`.

    Raises GateFailure naming the first line or token that differs, RuntimeFailure when llama.cpp refuses the file.
    """
    reference = Tokenizer.from_file(str(tokenizer_directory / "tokenizer.json"))
    reference.no_truncation()
    reference.no_padding()
    document = json.loads((tokenizer_directory / "tokenizer.json").read_text(encoding="utf-8"))
    added = [token["content"] for token in document.get("added_tokens", ())]
    texts = [*TEXTS, *special_token_texts(added), *lines]
    # llama.cpp does not compose characters: see docs/formats/gguf.md
    if (document.get("normalizer") or {}).get("type") == "NFC":
        texts = [reference.normalizer.normalize_str(text) for text in texts]
    expected = [item.ids for item in reference.encode_batch(texts, add_special_tokens=True)]
    engine = run_isolated(f"{__name__}:engine_vocabulary", {"path": str(path), "texts": texts})
    for number, (text, want, got) in enumerate(zip(texts, expected, engine["tokens"], strict=True), start=1):
        if want != got:
            raise GateFailure(
                f"{path.name}: llama.cpp cuts line {number} differently from tokenizer.json: "
                + _first_difference(reference, text, want, got),
                hint="the file would lose quality without any error; this tokenizer cannot be exported to GGUF",
            )
    _check_pieces(path, _expected_pieces(document), engine["pieces"])


def _first_difference(reference: Tokenizer, text: str, want: Sequence[int], got: Sequence[int]) -> str:
    at = next((at for at, (left, right) in enumerate(zip(want, got, strict=False)) if left != right), None)
    at = min(len(want), len(got)) if at is None else at
    shown = [[reference.id_to_token(index) for index in ids[at : at + 3]] for ids in (want, got)]
    head = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
    return f"{head!r}: at token {at} expected {shown[0]}, got {shown[1]}"


def _check_pieces(path: Path, expected: dict[int, bytes], pieces: Sequence[str]) -> None:
    for index, want in expected.items():
        got = bytes.fromhex(pieces[index]) if index < len(pieces) else None
        if want != got:
            raise GateFailure(
                f"{path.name}: token {index} reads {got!r} in llama.cpp, tokenizer.json has {want!r}"
            )


def _expected_pieces(document: dict[str, Any]) -> dict[int, bytes]:
    """The bytes each token id of a tokenizer.json stands for."""
    vocab: dict[str, int] = document["model"]["vocab"]
    if document["model"].get("byte_fallback"):
        pieces = {index: _sentencepiece_bytes(text) for text, index in vocab.items()}
    else:
        bytes_of = _byte_of_character()
        pieces = {
            index: bytes(bytes_of.get(character, 0) for character in text) for text, index in vocab.items()
        }
    pieces.update({token["id"]: token["content"].encode() for token in document.get("added_tokens", ())})
    return pieces


def _byte_of_character() -> dict[str, int]:
    """GPT-2's byte alphabet: printable Latin-1 characters stand for themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + at): byte for at, byte in enumerate(others)}


def _sentencepiece_bytes(text: str) -> bytes:
    if len(text) == 6 and text.startswith("<0x"):
        return bytes([int(text[3:5], 16)])
    return text.replace("\u2581", " ").encode()


def engine_vocabulary(path: str, texts: Sequence[str]) -> dict[str, list[Any]]:
    """In the child: load only the vocabulary; token ids of each text, and each token's bytes in hexadecimal."""
    import llama_cpp

    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
    if not model:
        raise RuntimeFailure(f"llama.cpp does not load the vocabulary of {Path(path).name}")
    vocab = llama_cpp.llama_model_get_vocab(model)
    tokens = [_tokenize(llama_cpp, vocab, text.encode()) for text in texts]
    pieces = [_piece(llama_cpp, vocab, index).hex() for index in range(llama_cpp.llama_vocab_n_tokens(vocab))]
    return {"tokens": tokens, "pieces": pieces}


def _tokenize(engine: Any, vocab: Any, text: bytes) -> list[int]:
    room = len(text) + 2  # every token is at least one byte; and one before and one after
    buffer = (engine.llama_token * room)()
    count = engine.llama_tokenize(vocab, text, len(text), buffer, room, True, True)
    if count < 0:
        raise RuntimeFailure(f"llama.cpp makes {-count} tokens of {len(text)} bytes")
    return list(buffer[:count])


def _piece(engine: Any, vocab: Any, token: int) -> bytes:
    room = 512
    buffer = ctypes.create_string_buffer(room)
    count = engine.llama_token_to_piece(vocab, token, buffer, room, 0, True)
    if count < 0:
        room = -count
        buffer = ctypes.create_string_buffer(room)
        count = engine.llama_token_to_piece(vocab, token, buffer, room, 0, True)
    return buffer.raw[:count]
