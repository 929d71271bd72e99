"""Prompts to continue: from a file of the user's, or the beginnings of chunks of the held-out text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError
from edgeport.export.evaluate.chunks import ChunkedText

PROMPT_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Prompts:
    """tokens: ids per prompt. Two generation reports compare only when the prompts' sha256 is the same."""

    tokens: tuple[tuple[int, ...], ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.tokens).encode()).hexdigest()


def prompts_from_text(text: ChunkedText, count: int) -> Prompts:
    """The first tokens of up to `count` chunks, spread evenly over the text."""
    length = min(PROMPT_TOKENS, text.n_ctx // 2)
    count = min(count, len(text.chunks))
    places = [number * len(text.chunks) // count for number in range(count)]
    return Prompts(tuple(text.chunks[place][:length] for place in places))


def prompts_from_file(path: Path, tokenizer: Any, *, most_tokens: int) -> Prompts:
    """One prompt a line: plain text, or in a .jsonl file objects with `prompt`, which may hold line ends.

    Raises UsageError for a file without prompts, or a prompt longer than `most_tokens`: nothing is cut in silence.
    """
    texts = read_prompts(path)
    prompts = [tuple(tokenizer.encode(text).ids) for text in texts]
    for number, tokens in enumerate(prompts, start=1):
        if not 1 <= len(tokens) <= most_tokens:
            raise UsageError(
                f"prompt {number} of {path} has {len(tokens)} tokens, allowed are 1 .. {most_tokens}",
                hint="shorten it, or ask for fewer --new-tokens",
            )
    return Prompts(tuple(prompts))


def read_prompts(path: Path) -> Sequence[str]:
    """The texts in a prompts file; empty lines are left out."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        texts = [_prompt_of(line) for line in lines] if path.suffix == ".jsonl" else lines
    except (OSError, ValueError) as error:
        raise UsageError(
            f"prompts {path} cannot be read: {error}",
            hint='one prompt a line, or .jsonl with {"prompt": ...}',
        ) from error
    if not texts:
        raise UsageError(f"{path} holds no prompt", hint="one prompt a line")
    return texts


def _prompt_of(line: str) -> str:
    document = json.loads(line)
    if not isinstance(document, dict) or not isinstance(document.get("prompt"), str):
        raise ValueError(f"a line has no text `prompt`: {line[:60]}")
    return str(document["prompt"])
