"""Copy the tokenizer into a container that transformers, onnxruntime-genai or another consumer opens."""

from __future__ import annotations

import shutil
from pathlib import Path

_FILES = (
    "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
    "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy what is there; tokenizer_config.json keeps its content."""
    for name in (*_FILES, "tokenizer_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
