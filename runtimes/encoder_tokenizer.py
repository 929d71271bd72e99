"""Text to tokens for an encoder, from tokenizer.json: with the places of the tokens, and without a limit of its own.

sentence-transformers saves its longest text and its padding in tokenizer.json; both are switched off here, because a text that
is cut has to be told (edgeport.runtimes.embedding) and padding belongs to the engine's adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgeport.errors import ArtifactError
from edgeport.lazy import missing_extra


class TextEncoder(Protocol):
    """The part of edgeport.runtimes.tokenizer.Tokenizer that vectors need."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class PlacedTokens:
    """ids with special tokens; places: characters (begin, end) of each, None for a special token."""

    ids: tuple[int, ...]
    places: tuple[tuple[int, int] | None, ...]


class EncoderTokenizer:
    """Raises ArtifactError when there is no usable tokenizer.json in `folder`."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ArtifactError(
                f"no tokenizer.json in {folder}",
                hint="export again, or copy the model's tokenizer files there",
            )
        with missing_extra("reference", purpose="the tokenizer"):
            import tokenizers
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def place(self, text: str) -> PlacedTokens:
        found = self._tokenizer.encode(text)
        places = tuple(
            None if special else (int(begin), int(end))
            for (begin, end), special in zip(found.offsets, found.special_tokens_mask, strict=True)
        )
        return PlacedTokens(tuple(found.ids), places)
