"""A loaded encoder: texts in, vectors or labels out, from any thread.

    with load("artifact") as model:
        vectors = model.embed(["one text", "another"]).vectors

Calls are served one at a time. Pooling and unit length are what the model was made with (edgeport.runtimes.encoder_settings).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.manifest import base_format
from edgeport.runtimes.classification import (
    Classification,
    Classifier,
    TokenClassification,
    classify_logits,
)
from edgeport.runtimes.container import Container
from edgeport.runtimes.embedding import EmbeddingOptions, Embeddings, embed_texts, fit_texts
from edgeport.runtimes.encoder_settings import EncoderSettings
from edgeport.runtimes.encoder_tokenizer import EncoderTokenizer, TextEncoder
from edgeport.runtimes.engines import ENGINES


@dataclass(frozen=True, slots=True)
class EncoderParts:
    """What an encoder model is made of; edgeport.runtimes.encoder_opening puts them together. The model closes the encoder."""

    container: Container
    encoder: Classifier
    tokenizer: TextEncoder
    settings: EncoderSettings
    choice_reason: str


class EncoderModel:
    """Close it, or use `with`; one that is dropped frees its memory too."""

    def __init__(self, parts: EncoderParts) -> None:
        self.container, self.settings = parts.container, parts.settings
        self.choice_reason = parts.choice_reason
        self._encoder, self._tokenizer = parts.encoder, parts.tokenizer
        self._turn = threading.Lock()
        self._free = weakref.finalize(self, parts.encoder.close)

    @property
    def format(self) -> str:
        return self.container.format

    @property
    def engine(self) -> str:
        return ENGINES[base_format(self.format)].name

    @property
    def context_length(self) -> int:
        """Tokens of the longest text, special ones included."""
        return self._encoder.context_length

    @property
    def embedding_defaults(self) -> EmbeddingOptions:
        """How the model was made to be used."""
        return EmbeddingOptions(self.settings.pooling, self.settings.normalize)

    def embed(self, texts: Sequence[str], options: EmbeddingOptions | None = None) -> Embeddings:
        """A vector for each text. options None: the model's own pooling and length, and no text is cut.

        Raises UsageError for a text without tokens, RuntimeFailure for one that does not fit (unless options.truncate).
        """
        chosen = options or self.embedding_defaults
        with self._turn:
            return embed_texts(self._encoder, self._tokenizer, self._prepared(texts), chosen)

    def classify(self, texts: Sequence[str], *, truncate: bool = False) -> list[Classification]:
        """The label of each text. Raises as `embed` does, UsageError for a model that does not classify texts."""
        self._require("sequence-classification", "classify")
        with self._turn:
            fitted = fit_texts(self._encoder, self._tokenizer, self._prepared(texts), truncate=truncate)
            rows = self._encoder.logits(fitted.sequences)
        labels, kind = self.settings.labels, self.settings.problem_type
        return [classify_logits(row, labels, kind) for row in rows]

    def classify_tokens(self, texts: Sequence[str]) -> list[list[TokenClassification]]:
        """The label of each token of each text, with its characters; special tokens are left out. A text that does not fit is an
        error. Raises UsageError for a model that does not classify tokens."""
        self._require("token-classification", "classify_tokens")
        tokenizer = self._tokenizer
        if not isinstance(tokenizer, EncoderTokenizer):
            raise UsageError(f"{self.engine} does not say where in a text its tokens are")
        with self._turn:
            prepared = self._prepared(texts)
            placed = [tokenizer.place(text) for text in prepared]
            fit_texts(self._encoder, tokenizer, prepared, truncate=False)
            rows = self._encoder.logits([tokens.ids for tokens in placed])
        labels = self.settings.labels
        return [
            [
                _placed(classify_logits(row, labels, None), text, place)
                for row, place in zip(logits, tokens.places, strict=True)
                if place is not None
            ]
            for text, tokens, logits in zip(texts, placed, rows, strict=True)
        ]

    def stream(self, *_values: Any, **_named: Any) -> NoReturn:
        self._refuse("stream")

    def generate(self, *_values: Any, **_named: Any) -> NoReturn:
        self._refuse("generate")

    def stream_chat(self, *_values: Any, **_named: Any) -> NoReturn:
        self._refuse("stream_chat")

    def chat(self, *_values: Any, **_named: Any) -> NoReturn:
        self._refuse("chat")

    def score(self, *_values: Any, **_named: Any) -> NoReturn:
        self._refuse("score")

    def close(self) -> None:
        """Free the engine's memory, after the call that is being served. Closing twice is harmless."""
        with self._turn:
            self._free()

    def __enter__(self) -> EncoderModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepared(self, texts: Sequence[str]) -> list[str]:
        if isinstance(texts, str):
            raise UsageError("one text was given where a list of texts is expected", hint="give [text]")
        if not self._free.alive:
            raise RuntimeFailure("the model is closed", hint="load it again")
        return [text.lower() for text in texts] if self.settings.lower_case else list(texts)

    def _require(self, task: str, call: str) -> None:
        if self.settings.task != task:
            others = {
                "features": "embed",
                "sequence-classification": "classify or embed",
                "token-classification": "classify_tokens or embed",
            }
            raise UsageError(
                f"{call} is for models of {task}, this one is for {self.settings.task}",
                hint=f"use {others[self.settings.task]}",
            )

    def _refuse(self, call: str) -> NoReturn:
        raise UsageError(
            f"{call}: this model is an encoder, it writes no text",
            hint="use embed, classify or classify_tokens",
        )


def _placed(found: Classification, text: str, place: tuple[int, int]) -> TokenClassification:
    begin, end = place
    return TokenClassification(found.label, found.score, found.scores, text[begin:end], begin, end)
