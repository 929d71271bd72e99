"""A GGUF file's own vocabulary behind the Tokenizer protocol: the file alone is enough to run it."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from pathlib import Path

import llama_cpp.llama_cpp as native

from edgeport.errors import RuntimeFailure
from edgeport.runtimes import llama_library
from edgeport.runtimes.tokenizer import Message, render_chat


class LlamaVocabulary:
    """Loads the vocabulary without the weights, and lives on its own: no session has to stay open for it.

    stop_ids: tokens that end a text beside those llama.cpp knows of.
    """

    def __init__(self, path: Path, stop_ids: Sequence[int] = ()) -> None:
        self._stop_ids = frozenset(stop_ids)
        file = llama_library.find_file(path)
        self._model = llama_library.load_model(file, vocabulary_only=True)
        self._free = weakref.finalize(self, native.llama_model_free, self._model)
        self._vocabulary = native.llama_model_get_vocab(self._model)
        # SentencePiece writes a text's first word with a space before it, unless it is told not to (Gemma)
        kinds = (native.LLAMA_VOCAB_TYPE_SPM, native.LLAMA_VOCAB_TYPE_UGM)
        prefixes = native.llama_vocab_type(self._vocabulary) in kinds
        self._has_space_prefix = prefixes and self._setting("tokenizer.ggml.add_space_prefix") != "false"
        template = native.llama_model_chat_template(self._model, None)
        self._template = template.decode("utf-8", "replace") if template else None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        raw = text.encode()
        size = len(raw) + 8  # nearly always enough: a character map can make a text longer
        while True:
            tokens = (native.llama_token * size)()
            count = native.llama_tokenize(
                self._vocabulary, raw, len(raw), tokens, size, add_special_tokens, True
            )
            if count >= 0:
                return list(tokens[:count])
            if -count <= size:
                raise RuntimeFailure(
                    f"llama.cpp cannot tokenize a text of {len(raw)} bytes: {llama_library.last_cause()}"
                )
            size = -count  # the library says how much it needs

    def decode(self, tokens: Sequence[int]) -> str:
        # piece by piece: llama_detokenize would also remove spaces before punctuation for some vocabularies
        text = b"".join(map(self._piece, tokens)).decode("utf-8", "replace")
        return text.removeprefix(" ") if self._has_space_prefix else text

    def is_stop(self, token: int) -> bool:
        return token in self._stop_ids or bool(native.llama_vocab_is_eog(self._vocabulary, token))

    def chat_prompt(self, messages: Sequence[Message]) -> str:
        special = {
            "bos_token": self._text(native.llama_vocab_bos(self._vocabulary)),
            "eos_token": self._text(native.llama_vocab_eos(self._vocabulary)),
        }
        return render_chat(self._template, messages, special)

    @property
    def stop_ids(self) -> frozenset[int]:
        return frozenset(filter(self.is_stop, range(native.llama_vocab_n_tokens(self._vocabulary))))

    def token_bytes(self) -> list[bytes | None]:
        """By token id; None for a token that stands for no text."""
        count = native.llama_vocab_n_tokens(self._vocabulary)
        return [self._piece(token) or None for token in range(count)]

    def _piece(self, token: int) -> bytes:
        size = 32
        while True:
            buffer = ctypes.create_string_buffer(size)
            written = native.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, False)
            if written >= 0:
                return bytes(buffer.raw[:written])
            size = -written  # the library says how much it needs

    def _setting(self, key: str) -> str | None:
        """A key of the file as text, None when it is not there. Long enough for "true" and "false"."""
        buffer = ctypes.create_string_buffer(16)
        found = native.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if found >= 0 else None

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        text = native.llama_vocab_get_text(self._vocabulary, token)
        return text.decode("utf-8", "replace") if text else ""
