"""A vocabulary of bytes: what a GGUF file's own offers to a constraint, without a file."""

from __future__ import annotations

from collections.abc import Sequence

STOP = 256


class ByteVocabulary:
    """One token per byte, and a stop token."""

    stop_ids = frozenset({STOP})

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def token_bytes(self) -> list[bytes | None]:
        return [*(bytes([value]) for value in range(256)), None]

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if token < 256).decode("utf-8", "replace")

    def is_stop(self, token: int) -> bool:
        return token == STOP

    def chat_prompt(self, messages: object) -> str:
        raise NotImplementedError
