"""Which keys a query sees, as numbers to add to the scores: one mask per window, each drawn once.

SDPAToPagedAttention drops the mask and gives the kernel a window instead. It learns the window from the mask alone, in the spelling
that torch exports of transformers' masks have: key > query + (-window), then four BitwiseAnd, Broadcast, Select, Slice. In any other
spelling the paged layer sees every key and nothing is said; `edgeport.runtimes.openvino_paged` therefore compares.
Spec: openvino, state_management_pattern.cpp (gptoss_gemma3_sliding_window_pattern).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from edgeport.export.formats.openvino_constants import LAST, element, scalar, vector

Node = Any

_MASKED = -65504.0  # float16's lowest: minus infinity makes NaN of a row that is padding alone


class Masks:
    """attention_mask: [batch, past + seq] i64, 0 for padding. batch, length: [1] i64, of the new tokens.

    multiple: masks cover `rest` [1] i64 more keys, which nobody sees, so that the number of all is a multiple of it.
    """

    def __init__(self, attention_mask: Node, batch: Node, length: Node, multiple: int = 1) -> None:
        total = element(ops.shape_of(attention_mask, output_type="i64"), 1)
        past = ops.squeeze(ops.subtract(total, length), vector(0))
        queries = ops.range(past, ops.squeeze(total, vector(0)), scalar(1), output_type="i64")
        if multiple > 1:
            self.rest = ops.floor_mod(ops.negative(total), vector(multiple))
            nobody = ops.broadcast(scalar(0), ops.concat([batch, self.rest], axis=0))
            attention_mask = ops.concat([attention_mask, nobody], axis=1)
            total = ops.add(total, self.rest)
        keys = ops.range(scalar(0), ops.squeeze(total, vector(0)), scalar(1), output_type="i64")
        self._shape = ops.concat([batch, vector(1), length, total], axis=0)
        self._keys = ops.unsqueeze(keys, vector(0))  # [1, past + seq]
        self._queries = ops.unsqueeze(queries, vector(1))  # [seq, 1]
        self._causal = ops.less_equal(self._keys, self._queries)
        self._real = ops.not_equal(ops.unsqueeze(attention_mask, vector(1, 2)), scalar(0))
        self._drawn: dict[int | None, Node] = {}

    def of(self, window: int | None) -> Node:
        """[batch, 1, seq, past + seq + rest] float32: query i at place past + i sees what is no padding up to its own place, and of
        that the last `window` keys, its own included."""
        if window not in self._drawn:
            self._drawn[window] = self._all() if window is None else self._last(window)
        return self._drawn[window]

    def _all(self) -> Node:
        causal = ops.unsqueeze(ops.unsqueeze(self._causal, vector(0)), vector(0))
        return _to_add(ops.logical_and(causal, self._real))

    def _last(self, window: int) -> Node:
        near = ops.greater(self._keys, ops.add(self._queries, ops.constant(-window, dtype=ov.Type.i64)))
        # The pattern has four conjunctions, and three conditions are all there are: causal stands in twice more.
        allowed = ops.bitwise_and(self._causal, near)
        allowed = ops.bitwise_and(allowed, self._causal)
        allowed = ops.bitwise_and(self._causal, allowed)
        allowed = ops.bitwise_and(allowed, self._real)
        mask = _to_add(ops.broadcast(allowed, self._shape))
        # All of it: the pattern of older versions ends in a Slice.
        return ops.slice(mask, vector(0), vector(LAST), vector(1), vector(3))


def _to_add(allowed: Node) -> Node:
    return ops.select(allowed, ops.constant(np.float32(0.0)), ops.constant(np.float32(_MASKED)))
