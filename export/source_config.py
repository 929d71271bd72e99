"""config.json of a source model and the list of its weight files, checked before anything is built upon what they say.

Both come from strangers: numbers may be huge or none at all, files may be pickles, and the model may bring code of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeport.devices.architectures.fields import LARGEST_COUNT, LARGEST_SIZE
from edgeport.devices.hub_config import LARGEST_CONFIG_BYTES, parse_config
from edgeport.devices.safetensors_header import INDEX_NAME
from edgeport.errors import EdgeportError, UnsupportedModel, UsageError
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.families.table import FAMILIES, read_spec
from edgeport.lazy import missing_extra

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_COUNTS = (
    "num_hidden_layers", "n_layer", "num_attention_heads", "n_head", "num_key_value_heads", "num_local_experts", "num_experts",
    "head_dim",
)  # fmt: skip
_SIZES = ("hidden_size", "n_embd", "intermediate_size", "n_inner", "vocab_size", "ffn_dim")
_HINT = "give a folder as save_pretrained() wrote it, or compare it with the config.json the model was published with"
_FETCH_AGAIN = (
    "fetch the file again, or write it anew: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
)
_JSON_FILES = (
    "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "chat_template.json",
)  # fmt: skip
_PROBE = "def area(x):\n\treturn 1.5\r\n " + "".join(map(chr, range(33, 0x250))) + " 你好 😀"
_LARGEST_JSON_BYTES = 64 << 20
_DEEPEST, _MOST_VALUES = 32, 200_000


def read_source_spec(directory: Path) -> DecoderSpec:
    """The spec of a model folder. Raises UsageError for a file that cannot be read, UnsupportedModel for what cannot be exported."""
    try:
        return read_spec(read_source_config(directory))
    except EdgeportError as error:
        error.hint = error.hint or _HINT
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        # a value of a kind that no family reads: the message says which, as far as Python does
        raise UnsupportedModel(
            f"{directory / 'config.json'} has a value that cannot be: {type(error).__name__}: {str(error)[:200]}",
            hint=_HINT,
        ) from error


def read_source_config(directory: Path, known: Collection[str] = FAMILIES) -> Mapping[str, Any]:
    """known: architectures that are built here, and need no code of the model's own."""
    path = directory / "config.json"
    try:
        if path.stat().st_size > LARGEST_CONFIG_BYTES:
            raise UsageError(
                f"{path} has more than {LARGEST_CONFIG_BYTES} bytes", hint="this is no config.json"
            )
        config = parse_config(path.read_bytes(), str(directory))
    except FileNotFoundError as error:
        raise UsageError(
            f"no config.json in {directory}", hint="give a folder written by save_pretrained()"
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    problems = list(_impossible(config))
    if problems:
        raise UsageError(f"{path} cannot be used: {'; '.join(problems[:5])}", hint=_HINT)
    refuse_own_code(config, known)
    return config


def _impossible(config: Mapping[str, Any]) -> Iterator[str]:
    """Numbers that no model has: a list of layers is made of them before any weight is looked at."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for keys, largest in ((_COUNTS, LARGEST_COUNT), (_SIZES, LARGEST_SIZE)):
            for key in keys:
                value = part.get(key)
                usable = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= largest
                if value is not None and not usable:
                    yield f"{key} is {value!r:.40}, it must be a whole number from 1 to {largest}"
    waiting: list[tuple[int, Any]] = [(0, config)]
    seen = 0
    while waiting:
        depth, value = waiting.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST_VALUES:
            yield f"it has more than {_MOST_VALUES} values, or is more than {_DEEPEST} deep"
            return
        if isinstance(value, float) and not math.isfinite(value):
            yield f"it holds the number {value}"
            return
        if isinstance(value, Mapping):
            waiting += [(depth + 1, item) for item in value.values()]
        elif isinstance(value, list):
            waiting += [(depth + 1, item) for item in value]


def refuse_own_code(config: Mapping[str, Any], known: Collection[str]) -> None:
    """Code that a model brings is never run. It is not needed where edgeport builds the architecture itself.

    Raises UnsupportedModel where `auto_map` names another class, whose arithmetic nobody here knows.
    """
    own = config.get("auto_map")
    if not own:
        return
    architectures = config.get("architectures")
    built = [name for name in architectures if name in known] if isinstance(architectures, list) else []
    named = (
        [str(name) for key, name in own.items() if key.startswith("AutoModel")]
        if isinstance(own, Mapping)
        else [str(own)]
    )
    foreign = [name for name in named if name.rpartition(".")[2] not in built]
    if not built or foreign:
        raise UnsupportedModel(
            f"this model brings code of its own (auto_map: {', '.join(foreign or named)[:80]}), which edgeport never runs",
            hint="give a model whose architecture transformers has built in, or a conversion of this one to such an "
            f"architecture; edgeport itself builds {', '.join(known)}",
        )


def check_side_files(directory: Path) -> None:
    """Raises UsageError where a JSON file beside the weights is none, or the tokenizers library cannot read tokenizer.json."""
    for name in _JSON_FILES:
        path = directory / name
        if not path.is_file():
            continue
        if path.stat().st_size > _LARGEST_JSON_BYTES:
            raise UsageError(f"{path} has more than {_LARGEST_JSON_BYTES} bytes", hint=_FETCH_AGAIN)
        try:
            document = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path} is not JSON ({type(error).__name__})", hint=_FETCH_AGAIN) from error
        if not isinstance(document, dict):
            raise UsageError(f"{path} holds a {type(document).__name__}, not an object", hint=_FETCH_AGAIN)
    if (directory / "tokenizer.json").is_file():
        _check_tokenizer(directory / "tokenizer.json")


def _check_tokenizer(path: Path) -> None:
    with missing_extra("export", purpose="reading tokenizer.json"):
        from tokenizers import Tokenizer
    try:
        tokenizer = Tokenizer.from_file(str(path))
        for special in (True, False):
            tokenizer.decode(tokenizer.encode(_PROBE, add_special_tokens=special).ids)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise UsageError(
            f"{path} cannot be read by the tokenizers library: {str(error)[:200]}", hint=_FETCH_AGAIN
        ) from error


def check_weight_files(directory: Path) -> None:
    """Raises UsageError where weights are pickled, or where shards that the index names are missing."""
    there = {path.name for path in directory.glob("*.safetensors")}
    if not there and not (directory / INDEX_NAME).is_file():
        pickled = sorted(path.name for pattern in PICKLED for path in directory.glob(pattern))
        if pickled:
            raise UsageError(
                f"no *.safetensors file in {directory}, only pickled weights: {', '.join(pickled[:3])}",
                hint="weights are read from safetensors only, because opening a pickle runs whatever code it holds: fetch the "
                "model.safetensors of the same repository, or load and save_pretrained() it where you trust it",
            )
        return
    missing = sorted(_shards(directory) - there)
    if missing:
        raise UsageError(
            f"{directory}: {missing[0]} is missing, {len(missing)} of the shards that {INDEX_NAME} names",
            hint="download all shards into this folder",
        )


def _shards(directory: Path) -> set[str]:
    index = directory / INDEX_NAME
    if not index.is_file():
        return set()
    try:
        places = parse_config(index.read_bytes(), str(index)).get("weight_map")
    except OSError as error:
        raise UsageError(f"{index} cannot be read: {error.strerror}") from error
    if not isinstance(places, Mapping) or not all(
        isinstance(name, str) and Path(name).name == name for name in places.values()
    ):
        raise UsageError(f"{index} has no usable weight_map", hint="fetch it again")
    return set(places.values())
