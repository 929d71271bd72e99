"""Do the converted OpenVINO tokenizer and detokenizer do what the source's tokenizer.json does?

openvino_tokenizers rebuilds a tokenizer from its description with operations of its own: a regular expression or a
normalizer it reads differently costs quality without an error. Compared are the ids of texts meant to be hard, with and
without added special tokens in them, and the text that comes back. The operations run in a child process, because they
are native code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgeport.errors import ArtifactError
from edgeport.export.verify.token_texts import TEXTS, special_token_texts
from edgeport.runtimes.isolation import run_isolated

NOTE = "openvino_tokenizer.txt"
"""Lies in a container without openvino_tokenizer.xml and says why there is none."""
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class TokenMismatch:
    """The first text that the converted tokenizer treats differently. `what` is "ids" or "text"."""

    what: str
    text: str
    expected: str
    found: str

    def __str__(self) -> str:
        head = self.text if len(self.text) <= _SHOWN_CHARACTERS else self.text[:_SHOWN_CHARACTERS] + "..."
        return f"{self.what} of {head!r}: expected {self.expected}, got {self.found}"


def first_mismatch(directory: Path, lines: Sequence[str] = ()) -> TokenMismatch | None:
    """Compare openvino_tokenizer.xml and openvino_detokenizer.xml in `directory` with its tokenizer.json.

    None when they agree on the built-in texts and on `lines`. Raises ArtifactError for missing or unreadable files.
    """
    source = directory / "tokenizer.json"
    names = ("openvino_tokenizer", "openvino_detokenizer")
    needed = [source, *(directory / f"{name}.{suffix}" for name in names for suffix in ("xml", "bin"))]
    for path in needed:
        if not path.is_file():
            raise ArtifactError(f"{path} is missing")
    reference, texts, expected = _expected(source, lines)
    arguments = {"directory": str(directory), "texts": texts, "ids": expected}
    found = run_isolated(f"{__name__}:converted", arguments)
    return _judged(reference, texts, expected, found)


def difference(directory: Path, tokenizer_json: Path) -> TokenMismatch | None:
    """The same of the models in `directory` and `tokenizer_json`, run in this process: for one that is a child already."""
    reference, texts, expected = _expected(tokenizer_json, ())
    return _judged(reference, texts, expected, converted(str(directory), texts, expected))


def _expected(tokenizer_json: Path, lines: Sequence[str]) -> tuple[Tokenizer, list[str], list[list[int]]]:
    reference = Tokenizer.from_file(str(tokenizer_json))
    reference.no_truncation()
    reference.no_padding()
    document = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    special = [token["content"] for token in document.get("added_tokens", ())]
    texts = [*TEXTS, *special_token_texts(special), *lines]
    return reference, texts, [item.ids for item in reference.encode_batch(texts, add_special_tokens=True)]


def _judged(
    reference: Tokenizer, texts: Sequence[str], expected: Sequence[list[int]], found: dict[str, list[Any]]
) -> TokenMismatch | None:
    for text, want, got in zip(texts, expected, found["ids"], strict=True):
        if want != got:
            return TokenMismatch("ids", text, *_around(reference, want, got))
    for text, ids, got in zip(texts, expected, found["texts"], strict=True):
        want = reference.decode(ids, skip_special_tokens=True)
        if want != got:
            return TokenMismatch("text", text, repr(want), repr(got))
    return None


def _around(reference: Tokenizer, want: Sequence[int], got: Sequence[int]) -> tuple[str, str]:
    """Three tokens of each from the first difference on."""
    at = next((at for at, pair in enumerate(zip(want, got, strict=False)) if pair[0] != pair[1]), None)
    at = min(len(want), len(got)) if at is None else at
    first, second = ([reference.id_to_token(index) for index in ids[at : at + 3]] for ids in (want, got))
    return f"{first} at token {at}", str(second)


def converted(directory: str, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> dict[str, list[Any]]:
    """In the child: ids of each text from the tokenizer, and the text of each of `ids` from the detokenizer."""
    import numpy as np
    import openvino
    import openvino_tokenizers  # noqa: F401 - registers its operations with openvino.Core

    core = openvino.Core()
    try:
        models = [
            core.compile_model(Path(directory) / f"openvino_{name}.xml", "CPU")
            for name in ("tokenizer", "detokenizer")
        ]
    except RuntimeError as error:
        raise ArtifactError(f"{directory}: {str(error).strip().splitlines()[-1]}") from error
    tokenizer, detokenizer = models
    tokenized = [tokenizer([text])["input_ids"][0].tolist() for text in texts]
    detokenized = [
        str(detokenizer(np.array([row], dtype=np.int64))["string_output"][0]) if row else "" for row in ids
    ]
    return {"ids": tokenized, "texts": detokenized}
