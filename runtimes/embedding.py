"""Texts to vectors: tokens, hidden states, one vector per text, unit length. The same over every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.progress import NO_PROGRESS, Progress
from edgeport.runtimes.encoder import Encoder
from edgeport.runtimes.encoder_tokenizer import TextEncoder
from edgeport.runtimes.pooling import check_pooling, normalize, pool

_TEXTS_AT_ONCE, _TOKENS_AT_ONCE = 32, 1024
"""What is encoded in one call: its hidden states are held together, and between two calls one may stop."""


@dataclass(frozen=True, slots=True)
class EmbeddingOptions:
    """pooling: last, mean, cls or max. The default is the last token: in a decoder only that one has seen the whole text.
    (A model trained for another one says so in its card; sentence-transformers' in 1_Pooling/config.json.)

    normalize: vectors of length 1, so that a product of two is their cosine. truncate: a text that does not fit the context is
    cut at its end and named in the result; False makes it an error.
    """

    pooling: str = "last"
    normalize: bool = True
    truncate: bool = False

    def __post_init__(self) -> None:
        check_pooling(self.pooling)


DEFAULTS = EmbeddingOptions()


@dataclass(frozen=True, slots=True)
class Embeddings:
    """vectors: [len(texts), hidden_size] float32. token_counts: of each text, special tokens included, before any cut.

    truncated: indices of the texts that were cut to the context; empty unless that was allowed.
    """

    vectors: npt.NDArray[np.float32]
    token_counts: tuple[int, ...]
    truncated: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FittedTexts:
    """Tokens of texts, each short enough for the encoder; token_counts and truncated as in `Embeddings`."""

    sequences: tuple[list[int], ...]
    token_counts: tuple[int, ...]
    truncated: tuple[int, ...]


def fit_texts(
    encoder: Encoder, tokenizer: TextEncoder, texts: Sequence[str], *, truncate: bool
) -> FittedTexts:
    """Raises UsageError for a text without tokens, RuntimeFailure for one that is longer than the context (unless `truncate`)."""
    sequences = [tokenizer.encode(text) for text in texts]
    token_counts = tuple(map(len, sequences))
    truncated = _check_lengths(token_counts, encoder.context_length, truncate=truncate)
    for index in truncated:
        sequences[index] = _cut(tokenizer, texts[index], sequences[index], encoder.context_length)
    return FittedTexts(tuple(sequences), token_counts, truncated)


def embed_texts(
    encoder: Encoder,
    tokenizer: TextEncoder,
    texts: Sequence[str],
    options: EmbeddingOptions = DEFAULTS,
    progress: Progress = NO_PROGRESS,
    before_each: Callable[[], None] | None = None,
) -> Embeddings:
    """One vector per text; none for no texts. All texts are tokenized and checked before the first one is computed.

    before_each: called before each few texts; what it raises ends the work.
    Raises UsageError for a text without tokens, RuntimeFailure for one that is longer than the context.
    """
    if isinstance(texts, str):
        raise UsageError("embed takes a list of texts", hint="give [text]")
    fitted = fit_texts(encoder, tokenizer, texts, truncate=options.truncate)
    sequences = fitted.sequences
    vectors = np.empty((len(texts), encoder.hidden_size), np.float32)
    with progress.stage("embed", total=len(texts)) as stage:
        for group in _groups([len(sequence) for sequence in sequences]):
            if before_each is not None:
                before_each()
            states = encoder.encode([sequences[index] for index in group])
            for index, rows in zip(group, states, strict=True):
                vectors[index] = pool(rows, options.pooling)
            stage.advance(len(states))
    vectors = normalize(vectors) if options.normalize else vectors
    return Embeddings(vectors, fitted.token_counts, fitted.truncated)


def _groups(lengths: Sequence[int]) -> Iterator[range]:
    """Neighbouring texts, at most so many and so long together; a longer text is alone."""
    begin = tokens = 0
    for index, length in enumerate(lengths):
        if index > begin and (index - begin == _TEXTS_AT_ONCE or tokens + length > _TOKENS_AT_ONCE):
            yield range(begin, index)
            begin, tokens = index, 0
        tokens += length
    if begin < len(lengths):
        yield range(begin, len(lengths))


def _check_lengths(counts: Sequence[int], limit: int, *, truncate: bool) -> tuple[int, ...]:
    """Indices of the texts that have to be cut."""
    empty = next((index for index, count in enumerate(counts) if count == 0), None)
    if empty is not None:
        raise UsageError(f"text {empty} is empty: it has no tokens and so no vector")
    over = tuple(index for index, count in enumerate(counts) if count > limit)
    if over and not truncate:
        raise RuntimeFailure(
            f"text {over[0]} has {counts[over[0]]} tokens, the encoder's context is {limit}",
            hint="open the model with a larger context_length, split the text, or pass truncate=True",
        )
    return over


def _cut(tokenizer: TextEncoder, text: str, tokens: Sequence[int], limit: int) -> list[int]:
    """The first tokens of the text that fit, between the special tokens the tokenizer puts around it."""
    plain = tokenizer.encode(text, add_special_tokens=False)
    begin = next(
        (at for at in range(len(tokens) - len(plain) + 1) if list(tokens[at : at + len(plain)]) == plain), 0
    )
    after = list(tokens[begin + len(plain) :])
    room = limit - begin - len(after)
    if room < 1:
        raise RuntimeFailure(f"a context of {limit} tokens has no room beside the special tokens")
    return [*tokens[:begin], *plain[:room], *after]
