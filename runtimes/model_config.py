"""What the small JSON files beside the weights say: context length, begin and stop tokens.

generation_config.json wins over config.json, as transformers has it; genai_config.json is onnxruntime-genai's copy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeport.errors import ArtifactError

UNKNOWN_CONTEXT_LENGTH = 2048


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`, empty when there is no such file. Raises ArtifactError when it is damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{path} must hold a JSON object")
    return document


def read_context_length(folder: Path) -> int:
    """Positions the model was made for, 2048 when no file says; of a long-rope model those of its short factors, which are
    what containers hold."""
    for document in _documents(folder):
        length = document.get("max_position_embeddings", document.get("context_length"))
        if length is not None:
            found = (length, _short_rope(document))
            return min(_number(item, "the context length") for item in found if item is not None)
    return UNKNOWN_CONTEXT_LENGTH


def read_stop_ids(folder: Path) -> tuple[int, ...]:
    """eos_token_id, one or several; empty when no file names it."""
    for document in _documents(folder):
        value = document.get("eos_token_id")
        if value is not None:
            return tuple(
                _number(item, "eos_token_id") for item in (value if isinstance(value, list) else [value])
            )
    return ()


def _short_rope(document: Mapping[str, Any]) -> Any:
    """original_max_position_embeddings of a long-rope model, None of others (transformers, modeling_rope_utils)."""
    rope = document.get("rope_parameters") or document.get("rope_scaling")
    if not isinstance(rope, Mapping) or rope.get("rope_type", rope.get("type")) not in ("longrope", "su"):
        return None
    name = "original_max_position_embeddings"
    return document.get(name) or rope.get(name)


def _number(value: Any, what: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ArtifactError(f"{what} is {value!r:.60}, expected a number") from error


def _documents(folder: Path) -> Iterator[Mapping[str, Any]]:
    yield read_json(folder / "generation_config.json")
    yield read_json(folder / "config.json")
    yield read_json(folder / "genai_config.json").get("model", {})
