"""A decoder layer's weights out of a safetensors folder, packed or plain, and the arithmetic of its parts in numpy float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeport.errors import ArtifactError
from edgeport.runtimes.reference_config import ReferenceConfig
from edgeport.runtimes.safetensors_reader import SafetensorsReader

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x @ weight.T + bias; weight [out, in]."""

    weight: Floats
    bias: Floats | None = None

    def __call__(self, x: Floats) -> Floats:
        y: Floats = x @ self.weight.T
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True, slots=True)
class Layer:
    """norms: around attention and around the feed-forward, as ReferenceConfig.norms; None does nothing."""

    norms: tuple[Floats | None, Floats | None, Floats | None, Floats | None]
    query: Linear
    key: Linear
    value: Linear
    query_norm: Floats | None
    key_norm: Floats | None
    output: Linear
    gate: Linear
    up: Linear
    down: Linear


class LayerReader:
    """Layers of one folder, read when asked for. Query, key and value, and gate and up, may lie in one matrix each."""

    def __init__(self, weights: SafetensorsReader, config: ReferenceConfig) -> None:
        self._weights, self._config = weights, config

    def layer(self, index: int) -> Layer:
        """Raises ArtifactError for a tensor that is missing or of another shape."""
        prefix, config = f"model.layers.{index}.", self._config
        before, after, before_mlp, after_mlp = (
            None if name is None else self.norm(prefix + name) for name in config.norms
        )
        normed = bool(config.query_key_norm)
        query, key, value = self._projections(prefix)
        gate, up = self._feed_forward(prefix)
        return Layer(
            norms=(before, after, before_mlp, after_mlp),
            query=query,
            key=key,
            value=value,
            query_norm=self.norm(prefix + "self_attn.q_norm") if normed else None,
            key_norm=self.norm(prefix + "self_attn.k_norm") if normed else None,
            output=self._linear(prefix + "self_attn.o_proj"),
            gate=gate,
            up=up,
            down=self._linear(prefix + "mlp.down_proj"),
        )

    def kv_heads(self, index: int) -> int:
        prefix, config = f"model.layers.{index}.self_attn.", self._config
        if prefix + "k_proj.weight" in self._weights or prefix + "qkv_proj.weight" not in self._weights:
            return self._weights.shape(prefix + "k_proj.weight")[0] // config.head_dim
        fused = self._weights.shape(prefix + "qkv_proj.weight")[0] // config.head_dim
        return (fused - config.heads) // 2

    def norm(self, module: str) -> Floats:
        """What the norm multiplies with."""
        weight: Floats = self._weights.read(module + ".weight") + np.float32(self._config.norm_offset)
        return weight

    def _projections(self, prefix: str) -> tuple[Linear, Linear, Linear]:
        if prefix + "self_attn.qkv_proj.weight" not in self._weights:
            query, key, value = (self._linear(f"{prefix}self_attn.{name}_proj") for name in "qkv")
            return query, key, value
        head_dim = self._config.head_dim
        fused, rows = self._linear(prefix + "self_attn.qkv_proj").weight, self._config.heads * head_dim
        if fused.shape[0] <= rows or (fused.shape[0] - rows) % (2 * head_dim):
            raise ArtifactError(
                f"{prefix}self_attn.qkv_proj.weight has {fused.shape[0]} rows, which are no heads of {head_dim}"
            )
        key_rows, value_rows = np.split(fused[rows:], 2)
        return Linear(fused[:rows]), Linear(key_rows), Linear(value_rows)

    def _feed_forward(self, prefix: str) -> tuple[Linear, Linear]:
        if prefix + "mlp.gate_up_proj.weight" not in self._weights:
            return self._linear(prefix + "mlp.gate_proj"), self._linear(prefix + "mlp.up_proj")
        gate, up = np.split(self._linear(prefix + "mlp.gate_up_proj").weight, 2)
        return Linear(gate), Linear(up)

    def _linear(self, module: str) -> Linear:
        bias = module + ".bias"
        weight = self._weights.read(module + ".weight")
        return Linear(weight, self._weights.read(bias) if bias in self._weights else None)


def rms_norm(x: Floats, weight: Floats | None, eps: float) -> Floats:
    """x [..., width] over its root mean square (arXiv:1910.07467), times weight [width]; x itself where there is no weight."""
    if weight is None:
        return x
    mean_square: Floats = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
    normed: Floats = x / np.sqrt(mean_square + np.float32(eps)) * weight
    return normed


def silu(x: Floats) -> Floats:
    with np.errstate(over="ignore"):  # exp is inf for large negative x, and x / inf the right limit
        activated: Floats = x / (1 + np.exp(-x))
    return activated


def gelu_tanh(x: Floats) -> Floats:
    """Hendrycks and Gimpel's approximation (arXiv:1606.08415), as PyTorch's approximate="tanh"."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    activated: Floats = np.float32(0.5) * x * (1 + np.tanh(inner))
    return activated


ACTIVATIONS = {"silu": silu, "gelu_tanh": gelu_tanh}


def soft_capped(x: Floats, cap: float | None) -> Floats:
    """cap * tanh(x / cap), or x itself (Gemma 2, arXiv:2408.00118)."""
    if cap is None:
        return x
    capped: Floats = np.float32(cap) * np.tanh(x / np.float32(cap))
    return capped


def softmax(scores: Floats) -> Floats:
    weights: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights
