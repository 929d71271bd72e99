"""A decoder in plain numpy float32: the oracle the engines are compared with, and a runtime where nothing else is installed.

Llama and Qwen2 as published: RMSNorm, rotary embedding, grouped-query attention, SwiGLU, optional biases, tied or own
head. Head counts are those of each layer's matrices, so Nemotron-NAS runs as well. Reads a plain or a packed safetensors
folder. Written to be read; no speed is claimed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import ArtifactError, UnsupportedModel
from edgeport.runtimes.rotary import rotary_tables, rotate
from edgeport.runtimes.safetensors_reader import SafetensorsReader
from edgeport.runtimes.session import Logits, SessionOptions
from edgeport.runtimes.window import Window, choose_context_length

Floats = npt.NDArray[np.float32]
FAMILIES = ("llama", "qwen2", "nemotron-nas")
_SIZES = (
    "hidden_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "rms_norm_eps",
)
"""What a config.json must say."""
_TABLE_PIECE_ROWS = 8192
_CHUNK_TOKENS = 256
"""Attention scores are [heads, chunk, total]: long prompts go through in pieces of this size."""


def open_session(path: Path, options: SessionOptions) -> ReferenceSession:
    """`path` is a folder with config.json and safetensors, or a file in it. `threads` is numpy's own business."""
    folder = path if path.is_dir() else path.parent
    return ReferenceSession(folder, options)


@dataclass(frozen=True, slots=True)
class _Linear:
    """y = x @ weight.T + bias; weight [out, in]."""

    weight: Floats
    bias: Floats | None

    def __call__(self, x: Floats) -> Floats:
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: Floats
    query: _Linear
    key: _Linear
    value: _Linear
    output: _Linear
    mlp_norm: Floats
    gate: _Linear
    up: _Linear
    down: _Linear


class _Table:
    """A matrix [vocab_size, hidden_size], held in float32 or read in pieces of rows each time it is used."""

    def __init__(self, weights: SafetensorsReader, name: str, *, keep: bool) -> None:
        self._weights, self._name = weights, name
        self.rows = weights.shape(name)[0]
        self._kept = weights.read(name) if keep else None

    def take(self, tokens: npt.NDArray[np.int64]) -> Floats:
        if self._kept is not None:
            return self._kept[tokens]
        return np.concatenate([self._weights.read(self._name, slice(token, token + 1)) for token in tokens])

    def project(self, x: Floats) -> Floats:
        """x [tokens, hidden_size] @ self.T -> [tokens, vocab_size]."""
        if self._kept is not None:
            return x @ self._kept.T
        pieces = range(0, self.rows, _TABLE_PIECE_ROWS)
        read = (self._weights.read(self._name, slice(start, start + _TABLE_PIECE_ROWS)) for start in pieces)
        return np.concatenate([x @ piece.T for piece in read], axis=1)


class ReferenceSession:
    """One sequence over float32 weights; see edgeport.runtimes.session.Session.

    Without `keep_weights` a layer's weights are dequantized each time it is their turn: memory for one layer instead
    of the whole model, and the right choice for a single pass.
    """

    def __init__(self, folder: Path, options: SessionOptions, *, keep_weights: bool = True) -> None:
        config = _read_config(folder)
        self._eps = np.asarray(config["rms_norm_eps"], np.float32)
        self._head_dim = int(
            config.get("head_dim") or config["hidden_size"] // int(config["num_attention_heads"])
        )
        weights = SafetensorsReader(folder)
        layers = range(int(config["num_hidden_layers"]))
        self._weights = weights
        self._embedding = _Table(weights, "model.embed_tokens.weight", keep=keep_weights)
        self._kept = [_read_layer(weights, index) for index in layers] if keep_weights else []
        self._layers = layers
        self._norm = weights.read("model.norm.weight")
        own_head = "lm_head.weight" in weights
        self._head = _Table(weights, "lm_head.weight", keep=keep_weights) if own_head else self._embedding
        length = choose_context_length(options.context_length, int(config["max_position_embeddings"]))
        self._window = Window(length, self._embedding.rows)
        self._cosines, self._sines = rotary_tables(config, self._head_dim, length)
        # Per layer [kv_heads, context_length, head_dim].
        shapes = [(self._kv_heads(index), length, self._head_dim) for index in layers]
        self._keys = [np.zeros(shape, np.float32) for shape in shapes]
        self._values = [np.zeros(shape, np.float32) for shape in shapes]

    @property
    def vocab_size(self) -> int:
        return self._window.vocab_size

    @property
    def context_length(self) -> int:
        return self._window.context_length

    @property
    def position(self) -> int:
        return self._window.position

    @property
    def hidden_size(self) -> int:
        return int(self._norm.size)

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        rows = []
        for hidden, last in self._chunks(tokens):
            if all_logits or last:
                scored = hidden if all_logits else hidden[-1:]
                rows.append(self._head.project(self._rms_norm(scored, self._norm)))
        return np.concatenate(rows)

    def hidden_states(self, tokens: Sequence[int]) -> Floats:
        """Append tokens like `feed`; return the states [len(tokens), hidden_size] the head would see."""
        return np.concatenate([self._rms_norm(hidden, self._norm) for hidden, _ in self._chunks(tokens)])

    def rewind(self, position: int) -> None:
        self._window.check_rewind(position)
        self._window.position = position

    def close(self) -> None:
        if self._window.close():
            self._kept = []
            del self._embedding, self._head
            self._keys = self._values = []

    def _chunks(self, tokens: Sequence[int]) -> Iterator[tuple[Floats, bool]]:
        """States before the final norm, piece by piece, and whether it is the last piece."""
        self._window.admit(tokens)
        for begin in range(0, len(tokens), _CHUNK_TOKENS):
            chunk = tokens[begin : begin + _CHUNK_TOKENS]
            hidden = self._forward(np.asarray(chunk, np.int64))
            self._window.position += len(chunk)
            yield hidden, begin + len(chunk) == len(tokens)

    def _kv_heads(self, index: int) -> int:
        module = f"model.layers.{index}.self_attn.k_proj.weight"
        return self._weights.shape(module)[0] // self._head_dim

    def _forward(self, tokens: npt.NDArray[np.int64]) -> Floats:
        """Hidden states [tokens, hidden_size] before the final norm; appends to the cache at the position."""
        x = self._embedding.take(tokens)
        for index in self._layers:
            layer = self._kept[index] if self._kept else _read_layer(self._weights, index)
            x = x + self._attention(index, layer, self._rms_norm(x, layer.attention_norm))
            normed = self._rms_norm(x, layer.mlp_norm)
            x = x + layer.down(_silu(layer.gate(normed)) * layer.up(normed))
        return x

    def _attention(self, index: int, layer: _Layer, x: Floats) -> Floats:
        begin, end = self._window.position, self._window.position + x.shape[0]
        cosines, sines = self._cosines[begin:end], self._sines[begin:end]
        queries = rotate(self._split_heads(layer.query(x)), cosines, sines)
        self._keys[index][:, begin:end] = rotate(self._split_heads(layer.key(x)), cosines, sines)
        self._values[index][:, begin:end] = self._split_heads(layer.value(x))
        group = queries.shape[0] // self._keys[index].shape[0]
        keys = np.repeat(self._keys[index][:, :end], group, axis=0)  # [heads, end, head_dim]
        values = np.repeat(self._values[index][:, :end], group, axis=0)
        scores = queries @ keys.swapaxes(1, 2) / np.float32(math.sqrt(self._head_dim))
        future = np.arange(end)[None, :] > np.arange(begin, end)[:, None]
        scores[:, future] = -np.inf
        mixed = _softmax(scores) @ values  # [heads, tokens, head_dim]
        return layer.output(mixed.swapaxes(0, 1).reshape(x.shape[0], -1))

    def _split_heads(self, x: Floats) -> Floats:
        return x.reshape(x.shape[0], -1, self._head_dim).swapaxes(0, 1)

    def _rms_norm(self, x: Floats, weight: Floats) -> Floats:
        variance = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32) + self._eps
        normed: Floats = x / np.sqrt(variance, dtype=np.float32) * weight
        return normed


def _read_layer(weights: SafetensorsReader, index: int) -> _Layer:
    prefix = f"model.layers.{index}."

    def linear(name: str) -> _Linear:
        bias = f"{prefix}{name}.bias"
        return _Linear(
            weights.read(f"{prefix}{name}.weight"), weights.read(bias) if bias in weights else None
        )

    return _Layer(
        attention_norm=weights.read(prefix + "input_layernorm.weight"),
        query=linear("self_attn.q_proj"),
        key=linear("self_attn.k_proj"),
        value=linear("self_attn.v_proj"),
        output=linear("self_attn.o_proj"),
        mlp_norm=weights.read(prefix + "post_attention_layernorm.weight"),
        gate=linear("mlp.gate_proj"),
        up=linear("mlp.up_proj"),
        down=linear("mlp.down_proj"),
    )


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    if config.get("model_type") not in FAMILIES:
        raise UnsupportedModel(
            f"the reference runtime cannot run model_type {config.get('model_type')!r}",
            hint=f"it runs {', '.join(FAMILIES)}",
        )
    wrong = next((name for name in _SIZES if not _is_positive(config.get(name))), None)
    if wrong is not None:
        raise ArtifactError(f"{path}: {wrong} is {config.get(wrong)!r}, it must be a number above 0")
    if config.get("hidden_act", "silu") != "silu" or config.get("use_sliding_window"):
        raise UnsupportedModel(
            "the reference runtime has SiLU and full attention only; this config asks for something else"
        )
    return config


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _silu(x: Floats) -> Floats:
    with np.errstate(
        over="ignore"
    ):  # exp overflows to inf for large negative x, and x / inf is the right limit
        activated: Floats = x / (1 + np.exp(-x))
    return activated


def _softmax(scores: Floats) -> Floats:
    weights: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights
