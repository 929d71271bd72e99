"""genai_config.json: what onnxruntime-genai needs beside model.onnx (keys as its src/config.h reads them)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeport.export.checkpoint import Checkpoint

_TYPES = {
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "granite": "granite",
    "mistral": "mistral",
    "olmo2": "olmo",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
"""Family -> `model.type`, of those in the library's src/models/model_type.h; the others are llama's layers."""


def write_genai_config(checkpoint: Checkpoint, directory: Path, *, max_length: int) -> None:
    """`max_length` bounds the preallocated KV cache: the library's default is the whole context.

    No `decoder.sliding_window`: it describes caches as short as the window. Here every layer's cache is whole, and the window is
    an attribute of its attention.
    """
    spec = checkpoint.spec
    document = {
        "model": {
            **_token_ids(checkpoint),
            "context_length": spec.context_length,
            "type": _TYPES.get(spec.family, "llama"),
            "vocab_size": spec.vocab_size,
            "decoder": {
                "filename": "model.onnx",
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "hidden_size": spec.hidden_size,
                "head_size": spec.head_dim,
                "num_attention_heads": spec.heads,
                "num_key_value_heads": spec.kv_heads,
                "num_hidden_layers": spec.layers,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": min(max_length, spec.context_length),
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
        },
    }
    (directory / "genai_config.json").write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")


def _token_ids(checkpoint: Checkpoint) -> dict[str, Any]:
    """Begin, end and padding ids; generation_config.json wins over config.json, as transformers has it."""
    merged = dict(checkpoint.spec.config)
    path = checkpoint.source_directory / "generation_config.json"
    if path.is_file():
        merged.update(json.loads(path.read_text(encoding="utf-8")))
    end = merged.get("eos_token_id")
    first_end = end[0] if isinstance(end, list) else end
    begin = merged.get("bos_token_id")
    padding = merged.get("pad_token_id")
    ids = {
        "bos_token_id": begin if begin is not None else first_end,
        "eos_token_id": end,
        "pad_token_id": padding if padding is not None else first_end,
    }
    return {key: value for key, value in ids.items() if value is not None}
