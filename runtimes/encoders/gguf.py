"""Hidden states from llama.cpp: a context with embeddings on and pooling off returns the state of every token after the last norm.

Several sequences share one batch under ids of their own, so nothing is padded. The library computes the head's logits of every
row beside the states; a batch is only as long as their buffer is small.
Spec: llama.h (llama_context_params.embeddings, pooling_type, kv_unified; llama_get_embeddings).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np

from edgeport.errors import RuntimeFailure
from edgeport.runtimes import llama_library
from edgeport.runtimes.encoder import HiddenStates, SequenceLimits, encoder_threads
from edgeport.runtimes.gguf import write_float32
from edgeport.runtimes.session import SessionOptions
from edgeport.runtimes.window import choose_context_length

_SEQUENCES = 16
"""Most sequences of one batch."""
_LOGITS_BYTES = 64 << 20
_FEWEST_TOKENS, _MOST_TOKENS = 32, 512
_TYPE_F32, _FLASH_ATTENTION_OFF = 0, 0

_Item = tuple[int, int, int]
"""Sequence of the group, position, token."""


def open_encoder(path: Path, options: SessionOptions) -> GgufEncoder:
    """`path` is the .gguf file or a folder with one. `exact` as in edgeport.runtimes.gguf: through a float32 copy."""
    file = llama_library.find_file(path)
    if not options.exact:
        return GgufEncoder(llama_library.load_model(file), options)
    with tempfile.TemporaryDirectory(prefix="edgeport-gguf-") as folder:
        exact_file = Path(folder) / "float32.gguf"
        write_float32(file, exact_file)
        return GgufEncoder(llama_library.load_model(exact_file), options)


class GgufEncoder:
    """See edgeport.runtimes.encoder.Encoder. Owns the model and frees it on close."""

    def __init__(self, model: Any, options: SessionOptions) -> None:
        self._model, self._context, self._batch = model, None, None
        try:
            length = choose_context_length(options.context_length, native.llama_model_n_ctx_train(model))
            vocab_size = native.llama_vocab_n_tokens(native.llama_model_get_vocab(model))
            self._limits = SequenceLimits(length, vocab_size)
            self.hidden_size = int(native.llama_model_n_embd(model))
            fitting = max(_FEWEST_TOKENS, _LOGITS_BYTES // (4 * vocab_size))
            self._batch_tokens = min(_MOST_TOKENS, fitting, length)
            self._context = _new_context(model, length, self._batch_tokens, options)
            self._batch = native.llama_batch_init(self._batch_tokens, 0, 1)
        except BaseException:
            self._free()
            raise

    @property
    def vocab_size(self) -> int:
        return self._limits.vocab_size

    @property
    def context_length(self) -> int:
        return self._limits.context_length

    def encode(self, sequences: Sequence[Sequence[int]]) -> list[HiddenStates]:
        self._limits.admit(sequences)
        states: list[HiddenStates] = []
        group: list[Sequence[int]] = []
        for sequence in sequences:
            if len(group) == _SEQUENCES or sum(map(len, group)) + len(sequence) > self.context_length:
                states += self._encode_group(group)
                group = []
            group.append(sequence)
        return states + (self._encode_group(group) if group else [])

    def close(self) -> None:
        if self._limits.close():
            self._free()

    def _encode_group(self, group: Sequence[Sequence[int]]) -> list[HiddenStates]:
        """States of sequences that fit the cache together."""
        native.llama_memory_clear(native.llama_get_memory(self._context), False)
        items = [
            (number, position, token)
            for number, sequence in enumerate(group)
            for position, token in enumerate(sequence)
        ]
        step = self._batch_tokens
        rows = np.concatenate(
            [self._decode(items[begin : begin + step]) for begin in range(0, len(items), step)]
        )
        borders = np.cumsum([len(sequence) for sequence in group])[:-1]
        return [np.ascontiguousarray(part) for part in np.split(rows, borders)]

    def _decode(self, items: Sequence[_Item]) -> HiddenStates:
        """A copy of the states [len(items), hidden_size]."""
        batch = self._batch
        assert batch is not None
        batch.n_tokens = len(items)
        for index, (number, position, token) in enumerate(items):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = number
            batch.logits[index] = True
        status = native.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeFailure(
                f"llama_decode failed with {status} on {len(items)} tokens: {llama_library.last_cause()}"
            )
        pointer = native.llama_get_embeddings(self._context)
        if not pointer:
            raise RuntimeFailure("llama.cpp gives no hidden states for this model")
        return np.ctypeslib.as_array(pointer, shape=(len(items), self.hidden_size)).astype(np.float32)

    def _free(self) -> None:
        if self._batch is not None:
            native.llama_batch_free(self._batch)
        if self._context is not None:
            native.llama_free(self._context)
        if self._model is not None:
            native.llama_model_free(self._model)
        self._model = self._context = self._batch = None


def _new_context(model: Any, length: int, batch_tokens: int, options: SessionOptions) -> Any:
    parameters = native.llama_context_default_params()
    parameters.n_ctx = length
    parameters.n_batch = parameters.n_ubatch = parameters.n_outputs_max = batch_tokens
    parameters.n_seq_max = _SEQUENCES
    parameters.kv_unified = True  # the cells are shared: one long sequence or several short ones
    parameters.embeddings = True
    parameters.pooling_type = native.LLAMA_POOLING_TYPE_NONE
    parameters.n_threads = parameters.n_threads_batch = encoder_threads(options)
    parameters.no_perf = True
    if options.exact:
        parameters.type_k = parameters.type_v = _TYPE_F32
        parameters.flash_attn_type = _FLASH_ATTENTION_OFF
    context = native.llama_init_from_model(model, parameters)
    if not context:
        raise RuntimeFailure(
            f"llama.cpp cannot make a context of {length} tokens: {llama_library.last_cause()}"
        )
    return context
