"""The tokenizer of an OpenVINO folder without tokenizer.json: openvino_tokenizer.xml and openvino_detokenizer.xml, run by OpenVINO.

Their string operators come with the package openvino_tokenizers, whose library is loaded without importing the package. Notes in
the .xml name the special tokens a text gets around it and the chat template.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import openvino
from edgeport.errors import ArtifactError, MissingExtra, RuntimeFailure
from edgeport.runtimes.model_config import read_json, read_stop_ids
from edgeport.runtimes.tokenizer import Message, render_chat

TOKENIZER, DETOKENIZER = "openvino_tokenizer.xml", "openvino_detokenizer.xml"
_LIBRARIES = ("libopenvino_tokenizers.so", "libopenvino_tokenizers.dylib", "openvino_tokenizers.dll")
_TEXT_PLACE = -1
"""Stands for the text among the ids of `processed_post_processor_template`."""


class OpenVinoVocabulary:
    """See edgeport.runtimes.tokenizer.Tokenizer. Without special tokens those that the notes name around a text are cut off."""

    def __init__(self, folder: Path) -> None:
        if not (folder / DETOKENIZER).is_file():
            raise ArtifactError(
                f"no {DETOKENIZER} in {folder}: tokens cannot be written as text",
                hint="convert the tokenizer again: convert_tokenizer MODEL --with-detokenizer",
            )
        core = openvino.Core()
        try:
            core.add_extension(str(_library()))
            model = core.read_model(str(folder / TOKENIZER))
            self._to_tokens: Any = core.compile_model(model, "CPU")
            self._to_text: Any = core.compile_model(str(folder / DETOKENIZER), "CPU")
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise RuntimeFailure(f"OpenVINO cannot open the tokenizer in {folder}: {reason}") from error
        eos = _note(model, "eos_token_id")
        self.stop_ids = frozenset(read_stop_ids(folder)) | ({int(eos)} if eos.isdecimal() else frozenset())
        self._before, self._after = _around(_note(model, "processed_post_processor_template"))
        self._template = _note(model, "chat_template") or None
        config = read_json(folder / "tokenizer_config.json")
        named = {name: config.get(name) for name in ("bos_token", "eos_token", "pad_token")}
        self._special = {name: text for name, text in named.items() if isinstance(text, str)}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        try:
            found = self._to_tokens([openvino.Tensor(np.array([text]))])["input_ids"]
        except RuntimeError as error:
            raise RuntimeFailure(f"OpenVINO cannot tokenize a text of {len(text)} characters") from error
        tokens = [int(token) for token in found[0]]
        return tokens if add_special_tokens else self._without_special(tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        if not len(tokens):
            return ""
        try:
            found = self._to_text([openvino.Tensor(np.array([tokens], np.int64))])
        except RuntimeError as error:
            raise RuntimeFailure(f"OpenVINO cannot write {len(tokens)} tokens as text") from error
        return str(found[0][0])

    def is_stop(self, token: int) -> bool:
        return token in self.stop_ids

    def chat_prompt(self, messages: Sequence[Message]) -> str:
        return render_chat(self._template, messages, self._special)

    def _without_special(self, tokens: list[int]) -> list[int]:
        if self._before and tokens[: len(self._before)] == self._before:
            tokens = tokens[len(self._before) :]
        if self._after and tokens[-len(self._after) :] == self._after:
            tokens = tokens[: -len(self._after)]
        return tokens


def _note(model: Any, name: str) -> str:
    return str(model.get_rt_info(name).astype(str)) if model.has_rt_info(name) else ""


def _around(template: str) -> tuple[list[int], list[int]]:
    """Ids before and after a text, from `{"single": {"ids": [0, -1], ...}}`; none where the notes do not say."""
    try:
        ids = [int(number) for number in json.loads(template)["single"]["ids"]]
        place = ids.index(_TEXT_PLACE)
    except (ValueError, KeyError, TypeError):
        return [], []
    return ids[:place], ids[place + 1 :]


def _library() -> Path:
    """Raises MissingExtra without the package."""
    found = importlib.util.find_spec("openvino_tokenizers")
    folders = [Path(place) / "lib" for place in (found.submodule_search_locations or ())] if found else []
    files = [folder / name for folder in folders for name in _LIBRARIES if (folder / name).is_file()]
    if not files:
        raise MissingExtra(
            "this folder has no tokenizer.json, and its openvino_tokenizer.xml needs the package openvino_tokenizers",
            hint="pip install openvino-tokenizers, or copy the model's tokenizer.json beside it",
        )
    return files[0]
