"""Does a GGUF file's vocabulary cut text into the very tokens tokenizer.json does?

llama.cpp tokenizes with its own code after a description in the file; a wrong merge or pre-tokenizer name loads without
a word and costs quality silently. Compared are token ids over texts meant to be hard, with and without the tokens that go around
a text, the bytes of every token, and the tokens that end a text. What llama.cpp is known not to do (token_limits) is spared.
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
from edgeport.export.verify.token_limits import comparable
from edgeport.export.verify.token_texts import TEXTS, special_token_texts
from edgeport.runtimes.isolation import run_isolated
from edgeport.runtimes.model_config import read_stop_ids

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
    texts = comparable(document, [*TEXTS, *special_token_texts(added), *lines])
    engine = run_isolated(f"{__name__}:engine_vocabulary", {"path": str(path), "texts": texts})
    for around, found in ((True, engine["tokens"]), (False, engine["plain"])):
        expected = [item.ids for item in reference.encode_batch(texts, add_special_tokens=around)]
        _check_lines(path, reference, texts, expected, found)
    _check_pieces(path, expected_pieces(document), engine["pieces"])
    _check_ends(path, read_stop_ids(tokenizer_directory), engine["ends"], reference)


def _check_lines(
    path: Path,
    reference: Tokenizer,
    texts: Sequence[str],
    expected: Sequence[Sequence[int]],
    found: Sequence[Sequence[int]],
) -> None:
    for number, (text, want, got) in enumerate(zip(texts, expected, found, strict=True), start=1):
        if list(want) != list(got):
            raise GateFailure(
                f"{path.name}: llama.cpp cuts line {number} differently from tokenizer.json: "
                + _first_difference(reference, text, want, got),
                hint="the file would lose quality without any error; this tokenizer cannot be exported to GGUF",
            )


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


def _check_ends(path: Path, stops: Sequence[int], ends: Sequence[int], reference: Tokenizer) -> None:
    missing = [index for index in stops if index not in ends]
    if missing:
        raise GateFailure(
            f"{path.name}: llama.cpp would not stop at {reference.id_to_token(missing[0])!r} (token {missing[0]}), "
            "at which generation_config.json ends a text"
        )


def expected_pieces(document: dict[str, Any]) -> dict[int, bytes]:
    """The bytes each token id of a tokenizer.json stands for, a word's beginning as a space."""
    model = document["model"]
    bytes_of = _byte_of_character()

    def piece(text: str) -> bytes:
        if model["type"] == "WordPiece":
            continued = model["continuing_subword_prefix"]
            return (
                text.removeprefix(continued).encode() if text.startswith(continued) else f" {text}".encode()
            )
        if model["type"] == "Unigram":
            return text.replace("\u2581", " ").encode()
        if model.get("byte_fallback"):
            return _sentencepiece_bytes(text)
        return bytes(bytes_of.get(character, 0) for character in text)

    vocab = model["vocab"]
    entries = vocab.items() if isinstance(vocab, dict) else ((text, at) for at, (text, _) in enumerate(vocab))
    pieces = {index: piece(text) for text, index in entries}
    if model["type"] == "Unigram" and model.get("unk_id") is not None:
        pieces[model["unk_id"]] = vocab[model["unk_id"]][0].encode()
    for token in document.get("added_tokens", ()):
        written = set(token["content"]) == {"\u2581"} and model.get("byte_fallback") and not token["special"]
        pieces[token["id"]] = piece(token["content"]) if written else token["content"].encode()
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
    """In the child: load only the vocabulary; token ids of each text with and without the tokens around it, each token's bytes
    in hexadecimal, and the ids that end a text.
    """
    import llama_cpp

    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
    if not model:
        raise RuntimeFailure(f"llama.cpp does not load the vocabulary of {Path(path).name}")
    vocab = llama_cpp.llama_model_get_vocab(model)
    tokens, plain = (
        [_tokenize(llama_cpp, vocab, text.encode(), around) for text in texts] for around in (True, False)
    )
    count = llama_cpp.llama_vocab_n_tokens(vocab)
    pieces = [_piece(llama_cpp, vocab, index).hex() for index in range(count)]
    ends = [index for index in range(count) if llama_cpp.llama_vocab_is_eog(vocab, index)]
    return {"tokens": tokens, "plain": plain, "pieces": pieces, "ends": ends}


def _tokenize(engine: Any, vocab: Any, text: bytes, around: bool) -> list[int]:
    room = len(text) + 8  # nearly always enough: a character map can make a text longer
    while True:
        buffer = (engine.llama_token * room)()
        count = engine.llama_tokenize(vocab, text, len(text), buffer, room, around, True)
        if count >= 0:
            return list(buffer[:count])
        if -count <= room:
            raise RuntimeFailure(f"llama.cpp cannot tokenize {len(text)} bytes")
        room = -count  # the library says how much it needs


def _piece(engine: Any, vocab: Any, token: int) -> bytes:
    room = 512
    buffer = ctypes.create_string_buffer(room)
    count = engine.llama_token_to_piece(vocab, token, buffer, room, 0, True)
    if count < 0:
        room = -count
        buffer = ctypes.create_string_buffer(room)
        count = engine.llama_token_to_piece(vocab, token, buffer, room, 0, True)
    return buffer.raw[:count]
