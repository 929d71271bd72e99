"""Supported families by the architecture string of config.json; a new family is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from edgeport.errors import UnsupportedModel
from edgeport.export.families.decoder import DecoderSpec
from edgeport.lazy import load

FAMILIES: dict[str, str] = {
    "LlamaForCausalLM": "edgeport.export.families.llama:read_spec",
    "Qwen2ForCausalLM": "edgeport.export.families.qwen2:read_spec",
    "Qwen3ForCausalLM": "edgeport.export.families.qwen3:read_spec",
    "MistralForCausalLM": "edgeport.export.families.mistral:read_spec",
    "Phi3ForCausalLM": "edgeport.export.families.phi3:read_spec",
    "Gemma2ForCausalLM": "edgeport.export.families.gemma2:read_spec",
    "Gemma3ForCausalLM": "edgeport.export.families.gemma3:read_spec",
    "GraniteForCausalLM": "edgeport.export.families.granite:read_spec",
    "Olmo2ForCausalLM": "edgeport.export.families.olmo2:read_spec",
    "DeciLMForCausalLM": "edgeport.export.families.nemotron_nas:read_spec",
}


def read_spec(config: Mapping[str, Any]) -> DecoderSpec:
    """The spec of a config.json. Raises UnsupportedModel, naming what is supported, for anything else."""
    architectures = config.get("architectures") or []
    if len(architectures) != 1 or architectures[0] not in FAMILIES:
        found = ", ".join(map(str, architectures)) or f"none (model_type {config.get('model_type')!r})"
        raise UnsupportedModel(
            f"architecture {found} is not supported", hint=f"supported are {', '.join(FAMILIES)}"
        )
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise UnsupportedModel(
            f"this model is already quantized ({method}); edgeport quantizes once, from float weights",
            hint="give the original 16-bit or 32-bit model",
        )
    return cast(DecoderSpec, load(FAMILIES[architectures[0]])(config))
