"""RoBERTa and XLM-RoBERTa: BERT with positions that begin after the padding's (arXiv:1907.11692, arXiv:1911.02116).

The position of the first token is pad_token_id + 1; transformers counts on from there over tokens that are not padding. With
padding at the end, and no padding token within a text, that is the table without its first rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgeport.export.encoders.bert import norm_spellings
from edgeport.export.encoders.config import Traits, read_encoder
from edgeport.export.encoders.spec import CLASSIFIER, POOLER, EncoderSpec, Task

UNUSED = re.compile(
    r"^(roberta\.)?embeddings\.position_ids$"
    r"|^(roberta\.)?pooler\."  # its classifiers bring a dense layer of their own
    r"|^lm_head\."  # masked words
)
_ROBERTA = Traits("roberta", {"sequence-classification": "tanh"}, padded_positions=True)
_XLM_ROBERTA = replace(_ROBERTA, family="xlm-roberta")


def read_roberta(config: Mapping[str, Any], task: Task) -> EncoderSpec:
    return read_encoder(config, task, _ROBERTA)


def read_xlm_roberta(config: Mapping[str, Any], task: Task) -> EncoderSpec:
    return read_encoder(config, task, _XLM_ROBERTA)


def candidates(name: str, spec: EncoderSpec) -> tuple[str, ...]:
    """What a source may call the canonical tensor `name`, likeliest first."""
    if name.startswith(f"{POOLER}."):
        return (name.replace(POOLER, "classifier.dense"),)
    if name.startswith(f"{CLASSIFIER}."):
        module = "classifier.out_proj" if spec.pooler is not None else CLASSIFIER
        return (name.replace(CLASSIFIER, module),)
    return tuple(prefix + spelt for spelt in norm_spellings(name) for prefix in ("roberta.", ""))
