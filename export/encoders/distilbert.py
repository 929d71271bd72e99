"""DistilBERT: six layers of BERT without token types, under names of its own (arXiv:1910.01108)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgeport.export.encoders.config import ConfigKeys, Traits, read_encoder
from edgeport.export.encoders.spec import CLASSIFIER, POOLER, EncoderSpec, Task

UNUSED = re.compile(
    r"^(distilbert\.)?embeddings\.position_ids$"
    r"|^vocab_(transform|layer_norm|projector)\."  # masked words
)
_KEYS = ConfigKeys(
    hidden_size="dim",
    intermediate_size="hidden_dim",
    layers="n_layers",
    heads="n_heads",
    activation="activation",
    epsilon=None,
)
_TRAITS = Traits("distilbert", {"sequence-classification": "relu"}, keys=_KEYS, token_types_key=None)
_RENAMED = (
    ("encoder.layer.", "transformer.layer."),
    ("attention.self.query", "attention.q_lin"),
    ("attention.self.key", "attention.k_lin"),
    ("attention.self.value", "attention.v_lin"),
    ("attention.output.dense", "attention.out_lin"),
    ("attention.output.LayerNorm", "sa_layer_norm"),
    ("intermediate.dense", "ffn.lin1"),
    # after attention.output.*, whose end it is
    ("output.dense", "ffn.lin2"),
    ("output.LayerNorm", "output_layer_norm"),
)


def read_spec(config: Mapping[str, Any], task: Task) -> EncoderSpec:
    return read_encoder(config, task, _TRAITS)


def candidates(name: str, spec: EncoderSpec) -> tuple[str, ...]:
    """What a source may call the canonical tensor `name`, likeliest first."""
    del spec
    if name.startswith(f"{POOLER}."):
        return (name.replace(POOLER, "pre_classifier"),)
    if name.startswith(f"{CLASSIFIER}."):
        return (name,)
    for canonical, own in _RENAMED:
        name = name.replace(canonical, own)
    return f"distilbert.{name}", name
