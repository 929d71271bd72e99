"""BERT, and what is built like it: MiniLM, BGE, E5, GTE (arXiv:1810.04805)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgeport.export.encoders.config import Traits, read_encoder
from edgeport.export.encoders.spec import CLASSIFIER, EncoderSpec, Task

UNUSED = re.compile(
    r"^(bert\.)?embeddings\.position_ids$"  # 0, 1, 2, ... as older versions of transformers saved them
    r"|^(bert\.)?pooler\."  # only a classifier of sequences looks at it
    r"|^cls\."  # masked words and next sentences
)
_TRAITS = Traits("bert", {"sequence-classification": "tanh"})


def read_spec(config: Mapping[str, Any], task: Task) -> EncoderSpec:
    return read_encoder(config, task, _TRAITS)


def candidates(name: str, spec: EncoderSpec) -> tuple[str, ...]:
    """What a source may call the canonical tensor `name`, likeliest first."""
    del spec
    if name.startswith(f"{CLASSIFIER}."):
        return (name,)
    return tuple(prefix + spelt for spelt in norm_spellings(name) for prefix in ("bert.", ""))


def norm_spellings(name: str) -> tuple[str, ...]:
    """Checkpoints that came from TensorFlow call a norm's weight and bias gamma and beta."""
    if ".LayerNorm." not in name:
        return (name,)
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return name, old
