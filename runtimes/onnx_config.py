"""What an ONNX decoder does not say itself, in the words of genai_config.json: from that file, or from config.json without it.

optimum and torch leave config.json beside their graphs; onnxruntime-genai's builder, edgeport and others write genai_config.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeport.runtimes.model_config import read_context_length, read_json


def read_onnx_config(folder: Path) -> dict[str, Any]:
    """Raises ArtifactError for a file that is there and damaged."""
    found = read_json(folder / "genai_config.json")
    return found or _from_transformers(folder)


def _from_transformers(folder: Path) -> dict[str, Any]:
    """The same keys, as far as config.json has them; a graph without GroupQueryAttention returns its cache, so none is shared."""
    config = read_json(folder / "config.json")
    if not config:
        return {}
    heads = config.get("num_attention_heads") or config.get("n_head")
    width = config.get("hidden_size") or config.get("n_embd")
    share = width // heads if isinstance(heads, int) and isinstance(width, int) and heads > 0 else None
    decoder = {
        "head_size": config.get("head_dim") or share,
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
    }
    return {
        "model": {
            "context_length": read_context_length(folder),
            "vocab_size": config.get("vocab_size"),
            "decoder": {key: value for key, value in decoder.items() if value is not None},
        }
    }
