"""A model's tokens as the bytes they stand for, in the form llguidance walks: from tokenizer.json or from a GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from llguidance import LLTokenizer, TokenizerWrapper

from edgeport.errors import UnsupportedModel
from edgeport.runtimes.tokenizer import Tokenizer


@runtime_checkable
class HasJson(Protocol):
    """A tokenizer that is specified by a tokenizer.json."""

    def to_json(self) -> str: ...

    @property
    def stop_ids(self) -> frozenset[int]: ...


@runtime_checkable
class HasBytes(Protocol):
    """A tokenizer that knows the bytes of each of its tokens."""

    def token_bytes(self) -> Sequence[bytes | None]:
        """By token id [vocab_size]; None for a token that stands for no text."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    @property
    def stop_ids(self) -> frozenset[int]: ...


_known: WeakKeyDictionary[Tokenizer, LLTokenizer] = WeakKeyDictionary()
"""Building one takes about a second for a vocabulary of 150 thousand, and every text of a model needs it."""


def vocabulary_of(tokenizer: Tokenizer) -> LLTokenizer:
    """Raises UnsupportedModel for a tokenizer whose tokens cannot be told in bytes."""
    if tokenizer not in _known:
        _known[tokenizer] = _build(tokenizer)
    return _known[tokenizer]


def _build(tokenizer: Tokenizer) -> LLTokenizer:
    if isinstance(tokenizer, HasJson):
        stops = sorted(tokenizer.stop_ids)
        try:
            return LLTokenizer(tokenizer.to_json(), eos_token=stops or None)
        except ValueError as error:
            raise UnsupportedModel(f"constrained output cannot use this tokenizer.json: {error}") from error
    if isinstance(tokenizer, HasBytes):
        return LLTokenizer(TokenizerWrapper(_Bytes(tokenizer)), eos_token=sorted(tokenizer.stop_ids) or None)
    raise UnsupportedModel(
        f"constrained output needs the bytes of each token, {tokenizer!r} cannot tell them"
    )


class _Bytes:
    """What llguidance asks of a tokenizer that is not a tokenizer.json."""

    def __init__(self, tokenizer: HasBytes) -> None:
        pieces = tokenizer.token_bytes()
        self.tokens = [b"" if piece is None else piece for piece in pieces]
        self.special_token_ids = [token for token, piece in enumerate(pieces) if piece is None]
        self.bos_token_id = None
        self.eos_token_id = min(tokenizer.stop_ids, default=0)
        self._encode = tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text, add_special_tokens=False)
