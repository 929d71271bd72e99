"""`edgeport run` on an encoder: the label of a text, the labels of its tokens, or the beginning of its vector."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from edgeport.errors import UsageError
from edgeport.manifest import to_json

if TYPE_CHECKING:
    from edgeport.runtimes import EncoderModel

_SHOWN = 8
"""Numbers of a vector that are shown."""


def answer_encoder(model: EncoderModel, text: str | None, arguments: argparse.Namespace) -> int:
    """Raises UsageError for --chat, which an encoder cannot."""
    if arguments.chat or text is None:
        raise UsageError("this model is an encoder, it does not talk", hint='edgeport run DIR "text"')
    found = _answer(model, text)
    if arguments.json:
        document = {
            "format": model.format,
            "engine": model.engine,
            "choice_reason": model.choice_reason,
            "text": text,
            "task": model.settings.task,
        }
        print(json.dumps({**document, **found}, ensure_ascii=False, indent=2))
        return 0
    for line in _lines(found):
        print(line)
    return 0


def _answer(model: EncoderModel, text: str) -> dict[str, Any]:
    task = model.settings.task
    if task == "sequence-classification":
        return {"classification": to_json(model.classify([text])[0])}
    if task == "token-classification":
        return {"tokens": to_json(model.classify_tokens([text])[0])}
    embeddings = model.embed([text])
    return {
        "pooling": model.settings.pooling,
        "normalize": model.settings.normalize,
        "token_count": embeddings.token_counts[0],
        "vector": [float(value) for value in embeddings.vectors[0]],
    }


def _lines(found: dict[str, Any]) -> list[str]:
    if "classification" in found:
        one = found["classification"]
        return [f"{one['label']}  {one['score']:.4f}"]
    if "tokens" in found:
        return [
            f"{item['begin']}-{item['end']}  {item['text']}  {item['label']}  {item['score']:.4f}"
            for item in found["tokens"]
        ]
    vector = found["vector"]
    more = f" ... {len(vector)} numbers" if len(vector) > _SHOWN else ""
    return [" ".join(f"{value:.4f}" for value in vector[:_SHOWN]) + more]
