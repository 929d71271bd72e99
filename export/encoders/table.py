"""Supported encoders by the architecture string of config.json; a new one is a family file and a few lines here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeport.errors import UnsupportedModel
from edgeport.export.encoders import bert, distilbert, roberta
from edgeport.export.encoders.spec import EncoderSpec, Task


@dataclass(frozen=True, slots=True)
class EncoderFamily:
    """read_spec: config.json and the task -> spec. candidates: canonical name -> what a source may call it, likeliest first.
    unused: tensors of other heads, which are left out."""

    read_spec: Callable[[Mapping[str, Any], Task], EncoderSpec]
    candidates: Callable[[str, EncoderSpec], tuple[str, ...]]
    unused: re.Pattern[str]


BERT = EncoderFamily(bert.read_spec, bert.candidates, bert.UNUSED)
ROBERTA = EncoderFamily(roberta.read_roberta, roberta.candidates, roberta.UNUSED)
XLM_ROBERTA = EncoderFamily(roberta.read_xlm_roberta, roberta.candidates, roberta.UNUSED)
DISTILBERT = EncoderFamily(distilbert.read_spec, distilbert.candidates, distilbert.UNUSED)

_STEMS = (("Bert", BERT), ("Roberta", ROBERTA), ("XLMRoberta", XLM_ROBERTA), ("DistilBert", DISTILBERT))
_HEADS: tuple[tuple[str, Task], ...] = (
    ("Model", "features"),
    ("ForMaskedLM", "features"),
    ("ForSequenceClassification", "sequence-classification"),
    ("ForTokenClassification", "token-classification"),
)
ARCHITECTURES: dict[str, tuple[EncoderFamily, Task]] = {
    f"{stem}{head}": (family, task) for stem, family in _STEMS for head, task in _HEADS
}
"""A model for masked words is exported for its hidden states, without the head."""


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Whether config.json names an encoder that this package exports."""
    named = _architectures(config)
    return named[:1] != [] and named[0] in ARCHITECTURES


def read_encoder_spec(config: Mapping[str, Any]) -> tuple[EncoderSpec, EncoderFamily]:
    """Raises UnsupportedModel for another architecture, or with every reason why this model cannot be exported."""
    named = _architectures(config)
    if len(named) != 1 or named[0] not in ARCHITECTURES:
        found = ", ".join(named) or f"none (model_type {config.get('model_type')!r:.60})"
        raise UnsupportedModel(
            f"architecture {found:.200} is not an encoder that can be exported",
            hint=f"supported are {', '.join(ARCHITECTURES)}",
        )
    family, task = ARCHITECTURES[named[0]]
    return family.read_spec(config, task), family


def _architectures(config: Mapping[str, Any]) -> list[str]:
    named = config.get("architectures")
    return [str(item) for item in named] if isinstance(named, list) else []
