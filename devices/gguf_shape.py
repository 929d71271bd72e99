"""A GGUF file as a `ModelShape`: its tensors with their real bits, and the caches llama.cpp makes for them.

The metadata keys are those of ggml's docs/gguf.md and llama.cpp's llama-arch.cpp, the rules which layers slide or keep a
recurrent state those of its llama-hparams.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeport.devices.gguf_header import ArrayLength, GgufTensor, read_gguf_header
from edgeport.devices.shape import CacheShape, ModelShape, Role, TensorShape
from edgeport.errors import UsageError

FLOAT_BYTES = 4
MODEL_TYPES: Mapping[str, str] = {
    "gemma3": "gemma3_text",
    "gpt-oss": "gpt_oss",
    "gptneox": "gpt_neox",
    "qwen3moe": "qwen3_moe",
    "qwen3next": "qwen3_next",
    "deepseek2": "deepseek_v2",
    "deci": "nemotron-nas",
    "phi2": "phi",
    "falcon-h1": "falcon_h1",
}
"""llama.cpp's names of architectures where they are not Hugging Face's model_type."""
WINDOW_PERIODS: Mapping[str, int] = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "cohere2": 4}
"""Of so many layers the last attends to everything, the others slide. Others' windows llama.cpp does not apply."""
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_LAYER = re.compile(r"blk\.(\d+)\.(.+?)(?:\.(weight|bias))?$")
_TOP_ROLES: Mapping[str, Role] = {
    "token_embd.weight": "embedding",
    "output.weight": "head",
    "position_embd.weight": "position",
    "token_types.weight": "position",
}


def shape_from_gguf(path: Path) -> ModelShape:
    """The shape in one GGUF file, or in all parts of a split one when any is given. Raises UsageError."""
    headers = [read_gguf_header(part) for part in _parts(path)]
    fields = _Metadata(headers[0].metadata, path.name)
    tensors = [tensor for header in headers for tensor in header.tensors]
    if not any(tensor.name == "token_embd.weight" for tensor in tensors):
        raise UsageError(f"{path.name} holds no model: it has no token_embd.weight")
    layers = fields.size("block_count")
    if not 1 <= layers <= len(tensors):  # before anything is made for each layer
        raise UsageError(f"{path.name} says a block_count of {layers}, and has {len(tensors)} tensors")
    if any((layer_of(tensor.name) or 0) >= layers for tensor in tensors):
        raise UsageError(f"{path.name} has tensors of layers beyond its block_count of {layers}")
    names = {tensor.name for tensor in tensors}
    embedding = next(tensor for tensor in tensors if tensor.name == "token_embd.weight")
    heads = max(fields.per_layer("attention.head_count", layers, default=0))
    hidden = fields.size("embedding_length")
    return ModelShape(
        name=path.stem,
        family=fields.family,
        hidden_size=hidden,
        intermediate_size=max(fields.per_layer("feed_forward_length", layers, default=0)),
        heads=heads,
        head_dim=fields.size("attention.key_length", default=hidden // max(1, heads)),
        vocab_size=embedding.sizes[-1],
        context_length=fields.size("context_length"),
        tied_embeddings="output.weight" not in names,
        tensors=tuple(_tensor_shape(tensor) for tensor in tensors),
        caches=_caches(fields, layers, hidden, names),
        experts=fields.size("expert_count", default=0),
        experts_per_token=fields.size("expert_used_count", default=0),
    )


def layer_of(name: str) -> int | None:
    """`blk.3.ffn_up.weight` -> 3"""
    found = _LAYER.match(name)
    return int(found.group(1)) if found else None


class _Metadata:
    """Keys below the architecture's name; each that is missing or of a wrong type is an error."""

    __slots__ = ("_name", "_values", "architecture")

    def __init__(self, values: Mapping[str, Any], name: str) -> None:
        architecture = values.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise UsageError(f"{name} does not say its general.architecture")
        self._values, self._name, self.architecture = values, name, architecture

    def size(self, key: str, *, default: int | None = None) -> int:
        value = self._values.get(f"{self.architecture}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
            raise UsageError(f"{self._name}: {self.architecture}.{key} is {value!r:.40}, expected a size")
        return value

    def per_layer(self, key: str, layers: int, *, default: int) -> Sequence[int]:
        """One number for all layers, or an array with one for each."""
        value = self._values.get(f"{self.architecture}.{key}", default)
        if isinstance(value, tuple) and len(value) == layers and all(isinstance(item, int) for item in value):
            return value
        if isinstance(value, (tuple, ArrayLength)):
            raise UsageError(f"{self._name}: {self.architecture}.{key} must have {layers} entries")
        return (self.size(key, default=default),) * layers

    @property
    def family(self) -> str:
        """`granite_swa` computes Mistral and others too: edgeport's own files say whose network theirs is."""
        own = self._values.get("edgeport.family")
        if self.architecture == "granite_swa" and isinstance(own, str):
            return own
        return MODEL_TYPES.get(self.architecture, self.architecture)

    def layers_that_slide(self, layers: int) -> Sequence[bool] | None:
        """Where the file says it of every layer."""
        pattern = self._values.get(f"{self.architecture}.attention.sliding_window_pattern")
        return pattern if isinstance(pattern, tuple) and len(pattern) == layers else None

    def window_period(self) -> int | None:
        """0: every layer slides. None: none does."""
        value = self._values.get(f"{self.architecture}.attention.sliding_window_pattern")
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        return WINDOW_PERIODS.get(self.architecture)


def _caches(fields: _Metadata, layers: int, hidden: int, names: set[str]) -> tuple[CacheShape, ...]:
    heads = fields.per_layer("attention.head_count", layers, default=0)
    kv_heads = fields.per_layer("attention.head_count_kv", layers, default=max(heads))
    share = hidden // max(1, max(heads))
    key = fields.size("attention.key_length", default=share)
    value = fields.size("attention.value_length", default=share)
    latent = fields.size("attention.kv_lora_rank", default=0)
    rotary = fields.size("rope.dimension_count", default=0)
    windows = _windows(fields, layers)
    causal = fields._values.get(f"{fields.architecture}.attention.causal", True)
    caches = []
    for layer in range(layers):
        prefix = f"blk.{layer}."
        state = _state_bytes(fields, prefix, hidden, names)
        fused = f"{prefix}attn_qkv.weight" in names and f"{prefix}ssm_conv1d.weight" not in names
        if not causal:
            caches.append(CacheShape(0, 0, 0))
        elif latent and f"{prefix}attn_k_b.weight" in names:
            caches.append(CacheShape(1, latent + rotary, 0))
        elif fused or f"{prefix}attn_k.weight" in names or f"{prefix}attn_kv_b.weight" in names:
            caches.append(CacheShape(kv_heads[layer], key, value, windows[layer], state))
        else:
            caches.append(CacheShape(0, 0, 0, state_bytes=state))
    return tuple(caches)


def _windows(fields: _Metadata, layers: int) -> list[int | None]:
    window, slides = fields.size("attention.sliding_window", default=0), fields.layers_that_slide(layers)
    if window and slides is not None:
        return [window if slides_here else None for slides_here in slides]
    period = fields.window_period()
    if not window or period is None:
        return [None] * layers
    return [window if period == 0 or layer % period < period - 1 else None for layer in range(layers)]


def _state_bytes(fields: _Metadata, prefix: str, hidden: int, names: set[str]) -> int:
    """float32 state of a layer with a convolution or a state-space part, 0 for attention alone."""
    if f"{prefix}shortconv.conv.weight" in names:
        return FLOAT_BYTES * hidden * (fields.size("shortconv.l_cache") - 1)
    if f"{prefix}ssm_conv1d.weight" in names:
        inner, state = fields.size("ssm.inner_size"), fields.size("ssm.state_size")
        groups, kernel = fields.size("ssm.group_count", default=0), fields.size("ssm.conv_kernel")
        return FLOAT_BYTES * ((kernel - 1) * (inner + 2 * groups * state) + state * inner)
    if any(name.startswith(f"{prefix}time_mix") for name in names):
        raise UsageError(
            f"{fields.architecture} keeps a state per token mix, which edgeport does not describe"
        )
    return 0


def _tensor_shape(tensor: GgufTensor) -> TensorShape:
    return TensorShape(
        name=tensor.name,
        shape=tuple(reversed(tensor.sizes)),
        role=_role(tensor.name),
        layer=layer_of(tensor.name),
        bits=tensor.kind.bits_per_weight,
    )


def _role(name: str) -> Role:
    if name in _TOP_ROLES:
        return _TOP_ROLES[name]
    if name.startswith("rope_"):
        return "other"
    found = _LAYER.match(name)
    part, suffix = (found.group(2), found.group(3)) if found else (name.rpartition(".")[0], name)
    if "norm" in part:
        return "norm"
    if "sinks" in part:
        return "other"
    if suffix == "bias" or name.endswith(".bias"):
        return "bias"
    if part.endswith("_exps"):
        return "expert"
    if part.startswith("ffn_gate_inp"):
        return "router"
    if "conv" in part:
        return "linear" if part.endswith("_proj") else "convolution"
    return "linear" if suffix == "weight" or name.endswith(".weight") else "other"


def _parts(path: Path) -> list[Path]:
    found = _SPLIT.search(path.name)
    if not found:
        return [path]
    count = int(found.group(2))
    stem = path.name[: found.start()]
    parts = [
        path.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf") for number in range(1, min(count, 999) + 1)
    ]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise UsageError(f"{missing[0]} is missing, a part of {path.name} ({len(missing)} in all)")
    return parts
