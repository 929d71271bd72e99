"""A sentence-transformers folder: how it pools, and which of its files an artifact takes along.

A container with these files opens in sentence-transformers, in text-embeddings-inference and in edgeport's own runtime, which
all read the pooling there.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from edgeport.export.encoders.spec import EncoderSpec
from edgeport.runtimes.encoder_settings import (
    LENGTH_NAMES,
    MODULES_NAME,
    EncoderSettings,
    read_encoder_settings,
)

SIDE_FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "sentencepiece.bpe.model", "config_sentence_transformers.json", MODULES_NAME, *LENGTH_NAMES,
)  # fmt: skip
_MODULE_FOLDERS = ("1_Pooling", "2_Normalize")


def read_settings(directory: Path, spec: EncoderSpec) -> EncoderSettings:
    """How the model in `directory` is used; max_length is at most what `spec` has positions for.

    Raises UnsupportedModel naming every module of sentence-transformers that is not supported.
    """
    settings = read_encoder_settings(directory)
    limit = min(settings.max_length or spec.context_length, spec.context_length)
    return replace(settings, max_length=limit, labels=spec.labels)


def copy_side_files(source: Path, target: Path) -> None:
    """Copy what is there of the small files beside the weights, module folders included."""
    target.mkdir(exist_ok=True)
    for path in side_files(source):
        copied = target / path.relative_to(source)
        copied.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copied)


def side_files(directory: Path) -> list[Path]:
    """In a fixed order; of the module folders their config.json."""
    names = (*SIDE_FILES, *(f"{folder}/config.json" for folder in _MODULE_FOLDERS))
    return [path for name in names if (path := directory / name).is_file()]
