"""Tiny random encoders from transformers' own configuration classes, with tokenizers in the layouts of the real families."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from builders import write_tokenizer

from edgeport.devices.int8_range import Int8Range
from edgeport.export.checkpoint import StoredTensors
from edgeport.export.encoders.calibrate import calibration_texts, input_ranges
from edgeport.export.encoders.golden import TEXTS, tokenize
from edgeport.export.encoders.packing import PackedEncoder, get_encoder_format
from edgeport.export.encoders.quantize import quantize_encoder
from edgeport.export.encoders.recipes import EncoderRecipe, load_encoder_recipe
from edgeport.export.encoders.source import EncoderSource, open_encoder_source
from edgeport.export.recipe import Recipe
from edgeport.progress import NO_PROGRESS
from edgeport.scheme import TensorScheme

Floats = npt.NDArray[np.float32]
HIDDEN, INNER, LAYERS, HEADS, POSITIONS = 64, 128, 2, 4, 160
WEIGHT_STD = 0.2
LABELS = {0: "bad", 1: "good", 2: "neither"}
FLOAT32 = EncoderRecipe("f32", "as it is", Recipe("f32", "", *(TensorScheme("f32"),) * 3), "float")


@dataclass(frozen=True, slots=True)
class Twin:
    """stem: of transformers' class names. kind: of the tokenizer."""

    stem: str
    kind: str
    extra: int = 0
    """Positions that no token has."""


TWINS = {
    "bert": Twin("Bert", "wordpiece"),
    "roberta": Twin("Roberta", "roberta", 2),
    "xlm-roberta": Twin("XLMRoberta", "unigram", 2),
    "distilbert": Twin("DistilBert", "wordpiece-cased"),
}


def write_twin(
    family: str,
    folder: Path,
    *,
    head: str = "Model",
    activation: str = "gelu",
    seed: int = 1,
    **settings: Any,
) -> Path:
    """A model folder as transformers saves it. `head` is the end of the class's name, `settings` go into its configuration."""
    import torch
    import transformers

    twin = TWINS[family]
    vocab_size = write_tokenizer(twin.kind, folder)
    shape: dict[str, Any] = {"vocab_size": vocab_size, "max_position_embeddings": POSITIONS + twin.extra}
    if family == "distilbert":
        shape |= {"dim": HIDDEN, "hidden_dim": INNER, "n_layers": LAYERS, "n_heads": HEADS}
        shape["activation"] = activation
    else:
        shape |= {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
        shape |= {"num_attention_heads": HEADS, "hidden_act": activation}
        shape["type_vocab_size"] = 2 if family == "bert" else 1
    if head.endswith("Classification"):
        settings = {
            "id2label": LABELS,
            "label2id": {name: number for number, name in LABELS.items()},
            **settings,
        }
    config = getattr(transformers, f"{twin.stem}Config")(**shape, **settings)
    model = getattr(transformers, f"{twin.stem}{head}")(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * WEIGHT_STD
            parameter.copy_(1 + noise if "norm" in name.lower() and name.endswith("weight") else noise)
    model.save_pretrained(folder)
    return folder


def add_sentence_files(
    folder: Path, pooling: str = "mean", *, normalize: bool = True, max_length: int | None = None
) -> None:
    """What sentence-transformers writes beside a model."""
    names = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
        for number, (name, path) in enumerate(zip(names, paths, strict=False))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    keys = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens", "last": "lasttoken"}
    modes = {f"pooling_mode_{key}": name == pooling for name, key in keys.items()}
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": HIDDEN, **modes})
    )
    document = {"max_seq_length": max_length, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(document))


def sequences(folder: Path) -> list[list[int]]:
    """Token ids of texts of different lengths."""
    source = open_encoder_source(str(folder))
    return tokenize(folder, source.settings, [*TEXTS[:4], TEXTS[6], TEXTS[11]])


def transformers_answers(folder: Path, ids: Sequence[Sequence[int]]) -> tuple[list[Floats], list[Floats]]:
    """(states, logits) of each sequence alone; logits of a model without a classifier are none."""
    import torch
    import transformers

    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    if not architecture.endswith("Classification"):
        architecture = "AutoModel"
    kind: Any = getattr(transformers, architecture)
    network = kind.from_pretrained(folder, dtype=torch.float32).eval()
    states, logits = [], []
    with torch.no_grad():
        for tokens in ids:
            outputs = network(torch.tensor([list(tokens)]), output_hidden_states=True)
            states.append(outputs.hidden_states[-1][0].numpy())
            if "logits" in outputs:
                logits.append(outputs.logits[0].numpy())
    return states, logits


def recipe_named(name: str) -> EncoderRecipe:
    from edgeport.devices.catalog import load_profile

    return FLOAT32 if name == "f32" else load_encoder_recipe(name, load_profile("edge"))


def pack(folder: Path, recipe: str, work: Path, *, bits: int = 8) -> tuple[EncoderSource, PackedEncoder]:
    """Quantize a twin into `work`; containers are written by `write`."""
    source, chosen = open_encoder_source(str(folder)), recipe_named(recipe)
    work.mkdir(parents=True, exist_ok=True)
    quantize_encoder(source, chosen.storage, work, progress=NO_PROGRESS)
    checkpoint, ranges = StoredTensors(work), {}
    if chosen.activations == "static":
        ids = tokenize(folder, source.settings, calibration_texts(None))
        ranges = input_ranges(source.spec, checkpoint, ids)
    encoder = PackedEncoder(
        "twin", source.spec, source.settings, checkpoint, chosen, Int8Range(bits, "asked for"), ranges
    )
    return source, encoder


def write(encoder: PackedEncoder, format_name: str, folder: Path) -> Path:
    folder.mkdir(parents=True)
    get_encoder_format(format_name).write(encoder, folder)
    return folder


def relative_error(got: Sequence[Floats], want: Sequence[Floats]) -> float:
    difference = sum(float(np.square(a - b).sum()) for a, b in zip(got, want, strict=True))
    return float(np.sqrt(difference / sum(float(np.square(b).sum()) for b in want)))


def with_settings(encoder: PackedEncoder, **changes: Any) -> PackedEncoder:
    return replace(encoder, settings=replace(encoder.settings, **changes))
