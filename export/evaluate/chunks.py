"""Cut a text into scored chunks the way llama.cpp's perplexity tool does.

Non-overlapping chunks of n_ctx tokens; when the tokenizer adds a begin token, it replaces the first token of each chunk;
the second half is scored: positions n_ctx/2 .. n_ctx-2 predict the token after them, so each has at least n_ctx/2 of context.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgeport.errors import UsageError
from edgeport.lazy import missing_extra


@dataclass(frozen=True, slots=True)
class ChunkedText:
    """chunks: token ids, each of n_ctx. Two evaluations compare only when all of this is equal."""

    chunks: tuple[tuple[int, ...], ...]
    n_ctx: int
    text_sha256: str

    @property
    def first_scored(self) -> int:
        return self.n_ctx // 2

    @property
    def scored_per_chunk(self) -> int:
        return self.n_ctx - 1 - self.first_scored


def chunk_text(text_path: Path, tokenizer_directory: Path, *, n_ctx: int, most_chunks: int) -> ChunkedText:
    """Tokenize a file and cut it. Raises UsageError when it is shorter than two chunks."""
    with missing_extra("export", purpose="tokenizing"):
        from tokenizers import Tokenizer
    try:
        text = text_path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"text {text_path} cannot be read: {error}", hint="give a UTF-8 text file with --text"
        ) from error
    tokenizer = Tokenizer.from_file(str(tokenizer_directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokens = tokenizer.encode(text).ids
    begin = tokenizer.encode("").ids
    count = min(len(tokens) // n_ctx, most_chunks)
    if len(tokens) < 2 * n_ctx:
        raise UsageError(
            f"{text_path} has {len(tokens)} tokens, perplexity over chunks of {n_ctx} needs at least {2 * n_ctx}",
            hint="give a longer --text, or a smaller --n-ctx",
        )
    chunks = []
    for number in range(count):
        chunk = list(tokens[number * n_ctx : (number + 1) * n_ctx])
        chunk[: len(begin)] = begin
        chunks.append(tuple(chunk))
    return ChunkedText(tuple(chunks), n_ctx, hashlib.sha256(text.encode()).hexdigest())
