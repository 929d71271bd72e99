"""What goes into llama.cpp and what comes out, without Python work per token: one batch of its own, filled through views.

At a thousand tokens a second a token has a millisecond; converting lists field by field took a visible share of it.
Spec: llama_batch and llama_get_logits in llama.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from edgeport.runtimes.session import Logits

_get_logits = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(("llama_get_logits", native._lib))
"""The binding's own returns a typed pointer, which costs more than the call."""


class TokenBatch:
    """Room for `capacity` tokens of sequence 0. `native` is the llama_batch to decode; free it once."""

    def __init__(self, capacity: int) -> None:
        self.native: Any = native.llama_batch_init(capacity, 0, 1)
        self._tokens = _view(self.native.token, capacity)
        self._positions = _view(self.native.pos, capacity)
        self._wanted = _view(self.native.logits, capacity)
        _view(self.native.n_seq_id, capacity)[:] = 1
        for index in range(capacity):
            self.native.seq_id[index][0] = 0

    def fill(self, tokens: Sequence[int], position: int, *, all_logits: bool) -> None:
        """`tokens` at `position` and after; logits of the last one, or of all."""
        count = len(tokens)
        self.native.n_tokens = count
        if count == 1:
            self._tokens[0], self._positions[0], self._wanted[0] = tokens[0], position, 1
            return
        self._tokens[:count] = tokens
        self._positions[:count] = np.arange(position, position + count, dtype=np.int32)
        self._wanted[:count] = all_logits
        self._wanted[count - 1] = 1

    def free(self) -> None:
        native.llama_batch_free(self.native)


class LogitsReader:
    """Copies rows out of the context's output buffer, which may move when it grows."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._address, self._row = 0, np.empty((1, vocab_size), np.float32)

    def read(self, context: Any, rows: int) -> Logits:
        """The last decode's rows [rows, vocab_size]; they lie in the order of the batch."""
        address = _get_logits(context)
        if rows != 1:
            return _rows_at(address, rows, self._vocab_size).copy()
        if address != self._address:
            self._address, self._row = address, _rows_at(address, 1, self._vocab_size)
        return self._row.copy()


def _rows_at(address: int, rows: int, columns: int) -> Logits:
    values: Logits = np.ctypeslib.as_array((ctypes.c_float * (rows * columns)).from_address(address))
    return values.reshape(rows, columns)


def _view(pointer: Any, count: int) -> npt.NDArray[Any]:
    return np.ctypeslib.as_array(pointer, shape=(count,))
