"""A model's tokens as the bytes they stand for, in the form llguidance walks: from tokenizer.json or from a GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...


@runtime_checkable
class HasBytes(Protocol):
    """A tokenizer that knows the bytes of each of its tokens."""

    def token_bytes(self) -> Sequence[bytes | None]:
        """By token id [vocab_size]; None for a token that stands for no text."""
        ...

    @property
    def stop_ids(self) -> frozenset[int]: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...


_MARK = "\x02"
_known: WeakKeyDictionary[Tokenizer, LLTokenizer] = WeakKeyDictionary()
"""Building one takes about a second for a vocabulary of 150 thousand, and every text of a model needs it."""


def vocabulary_of(tokenizer: Tokenizer) -> LLTokenizer:
    """Raises UnsupportedModel for a tokenizer whose tokens cannot be told in bytes."""
    if tokenizer not in _known:
        _known[tokenizer] = _build(tokenizer)
    return _known[tokenizer]


def _build(tokenizer: Tokenizer) -> LLTokenizer:
    pieces: Sequence[bytes | None]
    if isinstance(tokenizer, HasJson):
        pieces = _bytes_of_json(tokenizer.to_json())
    elif isinstance(tokenizer, HasBytes):
        pieces = tokenizer.token_bytes()
    else:
        raise UnsupportedModel(
            f"constrained output needs the bytes of each token, {tokenizer!r} cannot tell them"
        )
    # llguidance needs a stop token: where a model has none, one that no mask of the model's size holds
    stops = sorted(tokenizer.stop_ids) or [len(pieces)]
    pieces = [*pieces, *([None] * (stops[-1] + 1 - len(pieces)))]
    return LLTokenizer(TokenizerWrapper(_Bytes(pieces, stops, tokenizer.encode)), eos_token=stops)


def _bytes_of_json(document: str) -> list[bytes | None]:
    """llguidance knows the decoders of tokenizer.json. Its own cutting would turn text like `</s>` into the stop token."""
    try:
        read = LLTokenizer(document)
    except ValueError as error:
        raise UnsupportedModel(f"constrained output cannot use this tokenizer.json: {error}") from error
    return [
        None if read.is_special_token(token) else read.decode_bytes([token])
        for token in range(read.vocab_size)
    ]


class _Bytes:
    """What llguidance asks of a tokenizer. Where the rules leave no choice it forces the tokens that it is given here."""

    def __init__(
        self, pieces: Sequence[bytes | None], stops: Sequence[int], encode: Callable[..., list[int]]
    ) -> None:
        self.tokens = [b"" if piece is None else piece for piece in pieces]
        self.special_token_ids = [token for token, piece in enumerate(pieces) if piece is None]
        self.bos_token_id = None
        self.eos_token_id = stops[0]
        self._encode = encode
        self._mark = self._encode(_MARK, add_special_tokens=False)
        self._by_bytes = {piece: token for token, piece in enumerate(pieces) if piece is not None}
        self._longest = max(map(len, self._by_bytes), default=0)

    def __call__(self, text: str) -> list[int]:
        """Tokens that spell `text` and nothing else, as the tokenizer cuts it within a text where it can."""
        raw = text.encode()
        plain = self._encode(text, add_special_tokens=False)
        if self._spell(plain) == raw:
            return plain
        # SentencePiece puts a space before a text: behind a mark it does not
        marked = self._encode(_MARK + text, add_special_tokens=False)
        if marked[: len(self._mark)] == self._mark and self._spell(marked[len(self._mark) :]) == raw:
            return marked[len(self._mark) :]
        return self._longest_matches(raw)  # text that looks like a special token, for one

    def _spell(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self.tokens[token] for token in tokens)

    def _longest_matches(self, raw: bytes) -> list[int]:
        """As far as the vocabulary has the bytes."""
        found: list[int] = []
        begin = 0
        while begin < len(raw):
            ends = range(min(begin + self._longest, len(raw)), begin, -1)
            end = next((end for end in ends if raw[begin:end] in self._by_bytes), None)
            if end is None:
                break
            found.append(self._by_bytes[raw[begin:end]])
            begin = end
        return found
