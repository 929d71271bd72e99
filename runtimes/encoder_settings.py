"""What the files beside an encoder say about its use: pooling, unit length, the longest text, labels.

sentence-transformers keeps a pipeline in modules.json (Transformer, Pooling, Normalize), the pooling in 1_Pooling/config.json and
the longest text in sentence_bert_config.json; labels are id2label of config.json. Spec: the files that
https://github.com/UKPLab/sentence-transformers writes, in the key names of its versions 2 to 5.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import ArtifactError, UnsupportedModel
from edgeport.runtimes.model_config import read_json
from edgeport.runtimes.pooling import POOLINGS

MODULES_NAME = "modules.json"
LENGTH_NAMES = (
    "sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
    "sentence_xlm-roberta_config.json",
)  # fmt: skip
TASKS = ("features", "sequence-classification", "token-classification")
DEFAULT_POOLING, DEFAULT_ORIGIN = "mean", "sentence-transformers' default, no modules.json"
"""What sentence-transformers puts on a plain model, without unit length."""

_TRANSFORMER, _POOLING, _NORMALIZE = "Transformer", "Pooling", "Normalize"
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_OLD_NAMES = {"lasttoken": "last"}
_NO_LIMIT = 1 << 24
"""transformers writes 1e30 as model_max_length where there is none."""


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """task: one of TASKS. pooling, normalize: how vectors are made. max_length: tokens, special ones included, None for the
    model's own. lower_case: texts are lower-cased before they are tokenized. labels: in the order of the logits.
    problem_type: transformers' (softmax, sigmoid or the bare number), None where nobody said. origin: where pooling is from.
    """

    task: str = "features"
    pooling: str = DEFAULT_POOLING
    normalize: bool = False
    max_length: int | None = None
    lower_case: bool = False
    labels: tuple[str, ...] = ()
    problem_type: str | None = None
    origin: str = DEFAULT_ORIGIN


def read_encoder_settings(folder: Path) -> EncoderSettings:
    """The settings of the model in `folder`. Raises UnsupportedModel naming every module that cannot be followed, ArtifactError
    for a damaged file."""
    config = read_json(folder / "config.json")
    task = task_of(config)
    pooling, normalize, origin = DEFAULT_POOLING, False, DEFAULT_ORIGIN
    if task == "features" and (folder / MODULES_NAME).is_file():
        pooling, normalize = _read_modules(folder)
        origin = MODULES_NAME
    lengths = next((found for name in LENGTH_NAMES if (found := read_json(folder / name))), {})
    return EncoderSettings(
        task=task,
        pooling=pooling,
        normalize=normalize,
        max_length=_max_length(folder, lengths),
        lower_case=bool(lengths.get("do_lower_case", False)),
        labels=_labels(config) if task != "features" else (),
        problem_type=config.get("problem_type"),
        origin=origin,
    )


def task_of(config: Mapping[str, Any]) -> str:
    """By the end of the architecture's name, as transformers has them."""
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    if architecture.endswith("ForSequenceClassification"):
        return "sequence-classification"
    return "token-classification" if architecture.endswith("ForTokenClassification") else "features"


def _read_modules(folder: Path) -> tuple[str, bool]:
    """(pooling, normalize) of modules.json."""
    try:
        modules = json.loads((folder / MODULES_NAME).read_text(encoding="utf-8"))
        steps = [(str(item["type"]).rsplit(".", 1)[-1], str(item.get("path", ""))) for item in modules]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{folder / MODULES_NAME} cannot be read: {error!r}") from error
    problems = [
        f"{name} in {path or '.'}" for name, path in steps if name not in (_TRANSFORMER, _POOLING, _NORMALIZE)
    ]
    problems += [f"{name} in folder {path}" for name, path in steps if name == _TRANSFORMER and path]
    names = [name for name, _ in steps]
    if names[:2] != [_TRANSFORMER, _POOLING] or names[2:] not in ([], [_NORMALIZE]):
        problems.append(f"the order {', '.join(names) or 'of nothing'}")
    if problems:
        raise UnsupportedModel(
            f"{MODULES_NAME} asks for what edgeport cannot do: {'; '.join(problems)}",
            hint="supported is Transformer in the folder itself, then Pooling, then Normalize or nothing",
        )
    return _read_pooling(folder / steps[1][1] / "config.json"), names[2:] == [_NORMALIZE]


def _read_pooling(path: Path) -> str:
    if not path.is_file():
        raise UnsupportedModel(f"{MODULES_NAME} names a Pooling, and there is no {path}")
    document = read_json(path)
    named = document.get("pooling_mode")
    modes = (
        [_OLD_NAMES.get(str(named), str(named))]
        if named
        else [mode for key, mode in _MODES.items() if document.get(key)]
    )
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise UnsupportedModel(
            f"{path} asks for the pooling {' and '.join(modes) or 'none'}",
            hint=f"supported is one of {', '.join(POOLINGS)}",
        )
    return modes[0]


def _max_length(folder: Path, lengths: Mapping[str, Any]) -> int | None:
    """sentence-transformers' own number, else the tokenizer's."""
    for value in (
        lengths.get("max_seq_length"),
        read_json(folder / "tokenizer_config.json").get("model_max_length"),
    ):
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value < _NO_LIMIT:
            return int(value)
    return None


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """transformers leaves its own default, two labels, out of the file."""
    named, count = config.get("id2label"), config.get("num_labels")
    if not named:
        return tuple(f"LABEL_{index}" for index in range(count if isinstance(count, int) else 2))
    try:
        return tuple(str(named[index]) for index in sorted(named, key=int))
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise ArtifactError(f"config.json has no usable id2label: {error}") from error
