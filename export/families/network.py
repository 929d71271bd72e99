"""The float network of a model folder in torch: what everything asks that runs the source, whatever its family.

A family that transformers knows is transformers' own class, with its parameters under canonical names and values
(edgeport.export.families.canonical_modules). Nemotron-NAS it knows only through code in the folder, which
is never run: its network is transformers' Llama with layers built in each layer's sizes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeport.errors import UnsupportedModel
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.families.nemotron_nas import MODEL_TYPE, read_spec
from edgeport.export.families.table import FAMILIES
from edgeport.export.families.table import read_spec as read_family

if TYPE_CHECKING:
    import torch


def load_network(
    directory: Path, *, dtype: torch.dtype | None = None, device_map: Mapping[str, str] | None = None
) -> Any:
    """The folder's model in evaluation mode, with its weights in `dtype`, or in the dtype that config.json names.

    device_map: as transformers takes it; what bitsandbytes quantized needs one. No code from the folder is run, only
    safetensors are read. Raises what transformers raises for a damaged folder, and UnsupportedModel when weights and
    config.json disagree.
    """
    from transformers import AutoModelForCausalLM

    if _own_layout(directory) is None:
        network = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype or "auto",
            device_map=None if device_map is None else dict(device_map),
            local_files_only=True,
            use_safetensors=True,
            attn_implementation=_attention(directory),
        ).eval()
        return _canonical(network, directory)
    import torch

    network = empty_network(directory, dtype=torch.float32)
    _load_weights(network, directory, dtype)
    make_rotary_tables(network)
    network.generation_config = _generation_config(directory, network)
    return network


def empty_network(directory: Path, *, dtype: torch.dtype) -> Any:
    """The folder's model without weights, on torch's meta device, in evaluation mode.

    Its rotary tables are no weights and have to be made anew: `make_rotary_tables`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    document = _own_layout(directory)
    if document is None:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=_attention(directory)
            ).eval()
        return _canonical(network, directory)
    spec = read_spec(document)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(_llama_config(spec), dtype=dtype).eval()
        for index in range(spec.layers):
            network.model.layers[index] = _layer(network, spec, index, dtype)
    return network


def _attention(directory: Path) -> str | None:
    """transformers' default, sdpa, takes a cap on scores and does nothing with it (integrations/sdpa_attention.py)."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if (config.get("architectures") or [""])[0] not in FAMILIES:
        return None
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    return "eager" if read_family(plain).block.attention_softcap is not None else None


def _canonical(network: Any, directory: Path) -> Any:
    """A packed folder stays as it is: it is only run, nobody asks it for weights by name."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if config.get("quantization_config") or (config.get("architectures") or [""])[0] not in FAMILIES:
        return network
    spec = read_family(config)
    if spec.storage.is_plain:
        return network
    from edgeport.export.families.canonical_modules import make_canonical

    return make_canonical(network, spec)


def make_rotary_tables(network: Any) -> None:
    """Replace the tables on the meta device by real ones."""
    inner = network.model
    inner.rotary_emb = type(inner.rotary_emb)(config=network.config)


def _own_layout(directory: Path) -> dict[str, Any] | None:
    """config.json of a model whose layers transformers cannot build by itself."""
    path = directory / "config.json"
    if not path.is_file():
        return None  # transformers tells what is missing
    document = json.loads(path.read_text(encoding="utf-8"))
    return document if document.get("model_type") == MODEL_TYPE else None


def _llama_config(spec: DecoderSpec) -> Any:
    from transformers import LlamaConfig

    left_out = ("model_type", "architectures", "auto_map", "block_configs", "dtype", "torch_dtype")
    settings = {key: value for key, value in spec.config.items() if key not in left_out}
    return LlamaConfig(
        **{
            **settings,
            "architectures": ["LlamaForCausalLM"],
            "intermediate_size": spec.intermediate_size,
            "num_key_value_heads": spec.kv_heads,
            "head_dim": spec.head_dim,
            "attention_bias": spec.qkv_bias or spec.output_bias,
            "mlp_bias": spec.mlp_bias,
        }
    )


def _layer(network: Any, spec: DecoderSpec, index: int, dtype: torch.dtype) -> torch.nn.Module:
    shape, config = spec.layer_shape(index), copy.deepcopy(network.config)
    config.num_attention_heads, config.num_key_value_heads = shape.heads, shape.kv_heads
    config.intermediate_size = shape.intermediate_size
    layer = type(network.model.layers[index])(config, index).to(dtype).eval()
    attention = layer.self_attn
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        if not spec.qkv_bias:
            projection.bias = None
    if not spec.output_bias:
        attention.o_proj.bias = None
    made: torch.nn.Module = layer
    return made


def _load_weights(network: Any, directory: Path, dtype: torch.dtype | None) -> None:
    """Put the folder's tensors in the place of the empty ones, one file at a time."""
    from safetensors.torch import load_file

    for path in sorted(directory.glob("*.safetensors")):
        state = {name: values.to(dtype) if dtype else values for name, values in load_file(path).items()}
        unknown = network.load_state_dict(state, strict=False, assign=True).unexpected_keys
        if unknown:
            raise UnsupportedModel(f"{path} holds {unknown[0]}, which config.json does not describe")
    network.tie_weights()
    missing = [name for name, parameter in network.named_parameters() if parameter.is_meta]
    if missing:
        raise UnsupportedModel(f"the safetensors in {directory} lack {missing[0]}")


def _generation_config(directory: Path, network: Any) -> Any:
    from transformers import GenerationConfig

    if (directory / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(directory, local_files_only=True)
    return GenerationConfig.from_model_config(network.config)
