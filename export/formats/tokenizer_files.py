"""Copy the tokenizer into a container that transformers, onnxruntime-genai or another consumer opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FILES = (
    "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
    "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip


def copy_tokenizer(source: Path, target: Path, *, for_transformers: bool = False) -> None:
    """Copy what is there; tokenizer_config.json keeps its content.

    for_transformers: the consumer is transformers, whose version 5 builds the text pipeline of some tokenizer classes itself instead
    of reading it from tokenizer.json: where that would be another one, tokenizer_class becomes the class that reads the file.
    """
    for name in (*_FILES, "tokenizer_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    settings, pipeline = target / "tokenizer_config.json", target / "tokenizer.json"
    if for_transformers and settings.is_file() and pipeline.is_file():
        document = json.loads(settings.read_text(encoding="utf-8"))
        if _is_rebuilt_otherwise(document, json.loads(pipeline.read_text(encoding="utf-8"))):
            document["tokenizer_class"] = "PreTrainedTokenizerFast"
            settings.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _is_rebuilt_otherwise(settings: Mapping[str, Any], pipeline: Mapping[str, Any]) -> bool:
    """GPT2Tokenizer forgets digits one by one (SmolLM, Granite), LlamaTokenizer the space after a special token (Llama 2)."""
    name = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    words = (pipeline.get("pre_tokenizer") or {}).get("type")
    if name == "GPT2Tokenizer":
        return words != "ByteLevel" or pipeline.get("normalizer") is not None
    if name == "LlamaTokenizer":
        return words != "Metaspace" or pipeline.get("normalizer") is not None
    return False
