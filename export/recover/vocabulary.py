"""Whether two models mean the same by a token id: distillation compares distributions over ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeport.errors import UnsupportedModel, UsageError
from edgeport.export.source import SourceModel
from edgeport.lazy import missing_extra


def require_same_vocabulary(teacher: SourceModel, student: SourceModel) -> int:
    """Compare both tokenizers' vocabularies; returns how many ids both models have logits for.

    Embeddings may be padded to different sizes; ids the tokenizer never gives take no part. Raises UsageError with the
    first id that differs, UnsupportedModel when a model has fewer rows than its tokenizer has ids.
    """
    theirs, mine = _tokens_by_id(teacher), _tokens_by_id(student)
    for number in sorted(theirs.keys() | mine.keys()):
        if theirs.get(number) != mine.get(number):
            raise UsageError(
                f"teacher and student have different tokenizers: id {number} is {_shown(theirs, number)} in "
                f"{teacher.name} ({len(theirs)} tokens) and {_shown(mine, number)} in {student.name} ({len(mine)} tokens)",
                hint="distil from a model with the same tokenizer, or train on text alone: --teacher none --alpha 0",
            )
    size = min(teacher.spec.vocab_size, student.spec.vocab_size)
    if max(mine) >= size:
        raise UnsupportedModel(
            f"the tokenizer has ids up to {max(mine)}, teacher and student have logits for 0 to {size - 1}",
            hint="resize the smaller embedding to the tokenizer",
        )
    return size


def _tokens_by_id(source: SourceModel) -> Mapping[int, str]:
    with missing_extra("export", purpose="comparing tokenizers"):
        from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(source.directory / "tokenizer.json"))
    return {number: token for token, number in tokenizer.get_vocab(with_added_tokens=True).items()}


def _shown(tokens: Mapping[int, str], number: int) -> str:
    return repr(tokens[number]) if number in tokens else "missing"


def read_document(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no such file. Raises UsageError for anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path} holds {type(document).__name__}, expected an object")
    return document
