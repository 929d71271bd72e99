"""A config.json as a `ModelShape`: every tensor of the checkpoint, named and sized as the published files are.

Nothing of the model is imported or run: `auto_map` and remote code are ignored, numbers are checked before they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from edgeport.devices.architectures.fields import ConfigFields
from edgeport.devices.profile_keys import nearest
from edgeport.devices.shape import ModelShape
from edgeport.errors import UsageError
from edgeport.lazy import load

_HERE = "edgeport.devices.architectures"
ARCHITECTURES: Mapping[str, str] = {
    "llama": f"{_HERE}.llama:llama",
    "mistral": f"{_HERE}.llama:mistral",
    "qwen2": f"{_HERE}.llama:qwen2",
    "qwen3": f"{_HERE}.llama:qwen3",
    "gemma": f"{_HERE}.llama:gemma",
    "gemma2": f"{_HERE}.llama:gemma2",
    "gemma3_text": f"{_HERE}.llama:gemma3",
    "granite": f"{_HERE}.llama:llama",
    "olmo2": f"{_HERE}.llama:olmo2",
    "phi3": f"{_HERE}.llama:phi3",
    "phi": f"{_HERE}.gpt:phi",
    "gpt2": f"{_HERE}.gpt:gpt2",
    "opt": f"{_HERE}.gpt:opt",
    "gpt_neox": f"{_HERE}.gpt:gpt_neox",
    "falcon": f"{_HERE}.falcon:falcon",
    "mixtral": f"{_HERE}.mixture:mixtral",
    "qwen3_moe": f"{_HERE}.mixture:qwen3_moe",
    "olmoe": f"{_HERE}.mixture:olmoe",
    "gpt_oss": f"{_HERE}.mixture:gpt_oss",
    "deepseek_v2": f"{_HERE}.deepseek:deepseek_v2",
    "deepseek_v3": f"{_HERE}.deepseek:deepseek_v3",
    "nemotron-nas": f"{_HERE}.nemotron_nas:nemotron_nas",
    "lfm2": f"{_HERE}.lfm2:lfm2",
    "bert": f"{_HERE}.encoder:bert",
    "roberta": f"{_HERE}.encoder:roberta",
    "xlm-roberta": f"{_HERE}.encoder:roberta",
    "distilbert": f"{_HERE}.encoder:distilbert",
}
"""By `model_type`."""

NOT_COVERED: Mapping[str, str] = {
    "qwen3_next": "gated delta-net layers beside attention",
    "jamba": "Mamba layers beside attention",
    "bamba": "Mamba-2 layers beside attention",
    "falcon_h1": "Mamba-2 heads beside attention heads",
    "granitemoehybrid": "Mamba-2 layers beside attention",
    "nemotron_h": "Mamba-2 layers beside attention",
    "zamba2": "Mamba-2 layers beside a shared attention block",
    "recurrent_gemma": "recurrent layers beside local attention",
    "mamba": "state-space layers",
    "mamba2": "state-space layers",
    "falcon_mamba": "state-space layers",
    "rwkv": "recurrent layers",
}
"""Known, and refused: what would have to be described first, its tensors and the state it keeps of a sequence."""

TEXT_PARTS: Mapping[str, str] = {"gemma3": "gemma3_text"}
"""Models with an image encoder, of which the language model alone is described."""


def shape_from_config(document: Mapping[str, Any], *, name: str) -> ModelShape:
    """The shape of the model that `document`, a config.json, describes; `name` is for messages and the result.

    Raises UsageError for an unknown or unsupported model_type, and for fields that are missing or impossible, all at once.
    """
    if not isinstance(document, Mapping):
        raise UsageError(f"the configuration of '{name}' is not a JSON object")
    family = document.get("model_type")
    if not isinstance(family, str) or not family:
        raise UsageError(
            f"the configuration of '{name}' has no model_type", hint=f"known are {', '.join(ARCHITECTURES)}"
        )
    text = document.get("text_config")
    if family in TEXT_PARTS and isinstance(text, Mapping):
        family, document = TEXT_PARTS[family], text
    if family in NOT_COVERED:
        raise UsageError(
            f"'{name}' is a {family} model with {NOT_COVERED[family]}, whose tensors and state edgeport does not describe",
            hint="give its GGUF file instead, if there is one: the tensors are then read from it",
        )
    if family not in ARCHITECTURES:
        raise UsageError(
            f"'{name}' has the unknown model_type {family!r:.60}{nearest(family, tuple(ARCHITECTURES))}",
            hint=f"known are {', '.join(ARCHITECTURES)}",
        )
    fields = ConfigFields(document, name=name, family=family)
    return cast(ModelShape, load(ARCHITECTURES[family])(fields))
