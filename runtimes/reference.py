"""A decoder in plain numpy float32: the oracle the engines are compared with, and a runtime where nothing else is installed.

Llama, Mistral, Qwen 2 and 3, Phi-3, Granite, OLMo 2, Gemma 2 and 3, as their papers and transformers have them (what differs is
read by edgeport.runtimes.reference_config). Head counts are those of each layer's matrices, so Nemotron-NAS runs as well. Reads
a plain or a packed safetensors folder. Written to be read; no speed is claimed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeport.runtimes.reference_config import read_reference_config
from edgeport.runtimes.reference_layers import (
    ACTIVATIONS,
    Layer,
    LayerReader,
    rms_norm,
    soft_capped,
    softmax,
)
from edgeport.runtimes.rotary import rotary_tables, rotate
from edgeport.runtimes.safetensors_reader import SafetensorsReader
from edgeport.runtimes.session import Logits, SessionOptions
from edgeport.runtimes.window import Window, choose_context_length

Floats = npt.NDArray[np.float32]
_TABLE_PIECE_ROWS = 8192
_CHUNK_TOKENS = 256
"""Attention scores are [heads, chunk, total]: long prompts go through in pieces of this size."""


def open_session(path: Path, options: SessionOptions) -> ReferenceSession:
    """`path` is a folder with config.json and safetensors, or a file in it. `threads` is numpy's own business."""
    folder = path if path.is_dir() else path.parent
    return ReferenceSession(folder, options)


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
        config = read_reference_config(folder)
        weights = SafetensorsReader(folder)
        layers = range(config.layers)
        self._config, self._reader = config, LayerReader(weights, config)
        self._embedding = _Table(weights, "model.embed_tokens.weight", keep=keep_weights)
        self._kept = [self._reader.layer(index) for index in layers] if keep_weights else []
        self._norm = self._reader.norm("model.norm")
        own_head = "lm_head.weight" in weights
        self._head = _Table(weights, "lm_head.weight", keep=keep_weights) if own_head else self._embedding
        length = choose_context_length(options.context_length, config.context_length)
        self._window = Window(length, self._embedding.rows)
        kinds = {str(rope): rope for rope in config.ropes}  # layers that turn alike share their tables
        tables = {key: rotary_tables(rope, config.head_dim, length) for key, rope in kinds.items()}
        self._tables = [tables[str(rope)] for rope in config.ropes]
        # Per layer [kv_heads, context_length, head_dim].
        shapes = [(self._reader.kv_heads(index), length, config.head_dim) for index in layers]
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
                rows.append(self._logits(scored))
        return np.concatenate(rows)

    def hidden_states(self, tokens: Sequence[int]) -> Floats:
        """Append tokens like `feed`; return the states [len(tokens), hidden_size] the head would see."""
        return np.concatenate([self._normed(hidden, self._norm) for hidden, _ in self._chunks(tokens)])

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

    def _logits(self, hidden: Floats) -> Logits:
        logits = self._head.project(self._normed(hidden, self._norm)) / np.float32(self._config.logit_divisor)
        return soft_capped(logits, self._config.logit_softcap)

    def _forward(self, tokens: npt.NDArray[np.int64]) -> Floats:
        """Hidden states [tokens, hidden_size] before the final norm; appends to the cache at the position."""
        config = self._config
        activate, scale = ACTIVATIONS[config.activation], np.float32(config.residual_scale)
        x = self._embedding.take(tokens) * np.float32(config.embedding_scale)
        for index in range(config.layers):
            layer = self._kept[index] if self._kept else self._reader.layer(index)
            before, after, before_mlp, after_mlp = layer.norms
            mixed = self._attention(index, layer, self._normed(x, before))
            x = x + self._normed(mixed, after) * scale
            normed = self._normed(x, before_mlp)
            mixed = layer.down(activate(layer.gate(normed)) * layer.up(normed))
            x = x + self._normed(mixed, after_mlp) * scale
        return x

    def _attention(self, index: int, layer: Layer, x: Floats) -> Floats:
        begin, end = self._window.position, self._window.position + x.shape[0]
        cosines, sines = (table[begin:end] for table in self._tables[index])
        queries = rotate(self._heads(layer.query(x), layer.query_norm), cosines, sines)
        self._keys[index][:, begin:end] = rotate(self._heads(layer.key(x), layer.key_norm), cosines, sines)
        self._values[index][:, begin:end] = self._heads(layer.value(x), None)
        group = queries.shape[0] // self._keys[index].shape[0]
        keys = np.repeat(self._keys[index][:, :end], group, axis=0)  # [heads, end, head_dim]
        values = np.repeat(self._values[index][:, :end], group, axis=0)
        scores = queries @ keys.swapaxes(1, 2) * np.float32(self._config.attention_scale)
        scores = soft_capped(scores, self._config.attention_softcap)
        scores[:, self._unseen(index, begin, end)] = -np.inf
        mixed = softmax(scores) @ values  # [heads, tokens, head_dim]
        return layer.output(mixed.swapaxes(0, 1).reshape(x.shape[0], -1))

    def _unseen(self, index: int, begin: int, end: int) -> npt.NDArray[np.bool_]:
        """[tokens, end]: what each of the tokens begin..end does not see: later ones, and those before its window."""
        here, there = np.arange(begin, end)[:, None], np.arange(end)[None, :]
        unseen: npt.NDArray[np.bool_] = there > here
        window = self._config.windows[index]
        return unseen if window is None else unseen | (there <= here - window)

    def _heads(self, x: Floats, norm: Floats | None) -> Floats:
        """x [tokens, heads * head_dim] -> [heads, tokens, head_dim], with the norm over each head or over all of them."""
        if self._config.query_key_norm == "all":
            x, norm = self._normed(x, norm), None
        return self._normed(x.reshape(x.shape[0], -1, self._config.head_dim), norm).swapaxes(0, 1)

    def _normed(self, x: Floats, weight: Floats | None) -> Floats:
        return rms_norm(x, weight, self._config.rms_norm_eps)
