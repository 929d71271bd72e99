"""The small JSON files beside a model, each read once, bounded and checked; what cannot be read is a problem and not an end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.devices.safetensors_header import LONGEST_NAME
from edgeport.runtimes.inspect.document import Problem, Shapes, error

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer.json"
TOKENIZER_CONFIG, GENAI = "tokenizer_config.json", "genai_config.json"
OPENVINO_TOKENIZER = "openvino_tokenizer.xml"
"""No JSON: its notes stand under this name, where the reader of OpenVINO folders has put them."""
NAMES = (CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG, GENAI, "chat_template.json")
LARGEST_BYTES = 64 << 20
"""The largest published tokenizer.json has about 35 MB; parsed, a document takes several times its size."""
LARGEST_SIZE = 1 << 31

SHAPE_KEYS: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "dim", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "intermediate_size": ("intermediate_size", "n_inner", "hidden_dim", "ffn_dim"),
    "vocab_size": ("vocab_size",),
    "context_length": ("max_position_embeddings", "n_positions"),
}
"""config.json's usual names, then those of GPT-2, DistilBERT and OPT."""


@dataclass(frozen=True, slots=True)
class SideFiles:
    """documents: those that are there and hold a JSON object, by name. problems: of those that are there and do not."""

    folder: Path
    documents: Mapping[str, Mapping[str, Any]]
    problems: tuple[Problem, ...]

    def get(self, name: str) -> Mapping[str, Any]:
        """Empty where there is no usable file of that name."""
        return self.documents.get(name, {})

    def has(self, name: str) -> bool:
        return len(name) <= LONGEST_NAME and (self.folder / name).is_file()

    def config(self) -> Mapping[str, Any]:
        """config.json; of a model with an image encoder the language model's part over it."""
        document = self.get(CONFIG)
        text = document.get("text_config")
        return {**document, **text} if isinstance(text, Mapping) else document

    def genai_model(self) -> Mapping[str, Any]:
        return mapping(self.get(GENAI).get("model"))


def read_side_files(folder: Path) -> SideFiles:
    documents: dict[str, Mapping[str, Any]] = {}
    problems = []
    for name in NAMES:
        if not (folder / name).is_file():
            continue
        found = read_object(folder / name)
        if isinstance(found, str):
            problems.append(error(f"{name} {found}", "fetch the file again, or save the model again"))
        else:
            documents[name] = found
    return SideFiles(folder, documents, tuple(problems))


def read_object(path: Path) -> dict[str, Any] | str:
    """The JSON object in a file, or what is wrong with it."""
    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            return f"has {size} bytes, more than {LARGEST_BYTES} are not read"
        document = json.loads(path.read_bytes())
    except OSError as failure:
        return f"cannot be read: {failure.strerror}"
    except (ValueError, RecursionError) as failure:
        return f"is not JSON ({type(failure).__name__})"
    return document if isinstance(document, dict) else f"holds a {type(document).__name__}, not an object"


def mapping(value: Any) -> Mapping[str, Any]:
    """What is expected to be an object, empty for anything else."""
    return value if isinstance(value, Mapping) else {}


def size(value: Any) -> int | None:
    """A whole number that can be a size, None for anything else (`NaN`, 1e999, text)."""
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_SIZE
    return value if usable else None


def shapes_of_config(config: Mapping[str, Any]) -> Shapes:
    found = {
        field: next((count for key in keys if (count := size(config.get(key))) is not None), None)
        for field, keys in SHAPE_KEYS.items()
    }
    if found["kv_heads"] is None:
        found["kv_heads"] = found["heads"]
    if found["head_dim"] is None and found["hidden_size"] and found["heads"]:
        found["head_dim"] = found["hidden_size"] // found["heads"]
    return Shapes(**found)


def shapes_of_genai(model: Mapping[str, Any]) -> Shapes:
    """genai_config.json's `model`, which has no feed-forward width."""
    decoder = mapping(model.get("decoder"))
    return Shapes(
        layers=size(decoder.get("num_hidden_layers")),
        hidden_size=size(decoder.get("hidden_size")),
        heads=size(decoder.get("num_attention_heads")),
        kv_heads=size(decoder.get("num_key_value_heads")),
        head_dim=size(decoder.get("head_size")),
        vocab_size=size(model.get("vocab_size")),
        context_length=size(model.get("context_length")),
    )


def first_known(*shapes: Shapes) -> Shapes:
    """Field by field the first that is known."""
    fields = Shapes.__dataclass_fields__
    return Shapes(
        **{
            name: next((value for item in shapes if (value := getattr(item, name)) is not None), None)
            for name in fields
        }
    )
