"""OpenVINO with paged attention: the session owns the key-value cache in blocks, and rewinding is setting a number.

The stateful IR is rewritten when it is opened, as openvino.genai does for its LLMPipeline: ReadValue, attention and Assign of
each layer become one PagedAttention operator over blocks of 32 tokens. The head is moved behind a gather, so that a prompt
computes logits of the rows that are asked for and not of all.

    input_ids [n], position_ids [n], past_lens [1], subsequence_begins [2], block_indices [blocks], block_indices_begins [2],
    max_context_len [], rows [m], {key,value}_cache.N -> logits [m, 1, vocab_size]

The cache is float16 by default: as fast as the plug-in's own u8, nearer to the float model, and a token's entry does not depend
on those after it, so what is computed after a rewind is bit for bit what it was.
Spec: PagedAttentionExtension of OpenVINO; the CPU plug-in's block is 32 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from openvino._offline_transformations import paged_attention_transformation

import openvino
from edgeport.errors import RuntimeFailure, UnsupportedModel
from edgeport.runtimes.openvino_head import ROWS, gather_rows
from edgeport.runtimes.openvino_windows import check_windows
from edgeport.runtimes.session import Logits
from edgeport.runtimes.window import Window

BLOCK_TOKENS = 32


def paged(model: Any) -> Any:
    """Rewrite a stateful decoder in place and return it. Raises UnsupportedModel where it has no attention to page, or where
    the rewritten layers would not see what those of the file see."""
    try:
        paged_attention_transformation(model)
        check_windows(model)
        gather_rows(model, axis=0)
    except RuntimeError as error:
        raise UnsupportedModel(f"no paged attention for this graph: {str(error).splitlines()[-1]}") from error
    return model


class PagedSession:
    """One sequence; see edgeport.runtimes.session.Session. chunk_tokens: tokens of a prompt computed at once."""

    def __init__(self, compiled: Any, context_length: int, chunk_tokens: int) -> None:
        self._request: Any = compiled.create_infer_request()
        self._window = Window(context_length, compiled.outputs[0].partial_shape[2].get_length())
        self._chunk_tokens = chunk_tokens
        blocks = -(-context_length // BLOCK_TOKENS)
        self._positions = np.arange(context_length, dtype=np.int64)
        self._token, self._token_position = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self._for_one_token = {
            "input_ids": openvino.Tensor(self._token, shared_memory=True),
            "position_ids": openvino.Tensor(self._token_position, shared_memory=True),
            ROWS: openvino.Tensor(np.zeros(1, np.int64)),
        }
        self._takes_one_token = False
        # one number each, written before a call
        self._past, self._length = np.zeros(1, np.int32), np.array(0, np.int32)
        self._begins, self._block_begins = np.zeros(2, np.int32), np.zeros(2, np.int32)
        numbers = {
            "past_lens": self._past,
            "subsequence_begins": self._begins,
            "block_indices_begins": self._block_begins,
            "max_context_len": self._length,
        }
        self._request.set_tensor("block_indices", openvino.Tensor(np.arange(blocks, dtype=np.int32)))
        for name, array in numbers.items():
            self._request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        for port in compiled.inputs:
            if "_cache." in port.get_any_name():
                shape = [blocks, *(extent.get_length() for extent in list(port.partial_shape)[1:])]
                cache = openvino.Tensor(port.element_type, openvino.Shape(shape))
                self._request.set_tensor(port.get_any_name(), cache)

    @property
    def vocab_size(self) -> int:
        return self._window.vocab_size

    @property
    def context_length(self) -> int:
        return self._window.context_length

    @property
    def position(self) -> int:
        return self._window.position

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        self._window.admit(tokens)
        rows = []
        for begin in range(0, len(tokens), self._chunk_tokens):
            logits = self._infer(tokens[begin : begin + self._chunk_tokens], all_logits=all_logits)
            if all_logits:
                rows.append(logits.copy())
        return np.concatenate(rows) if all_logits else logits.copy()

    def rewind(self, position: int) -> None:
        self._window.check_rewind(position)
        self._window.position = position  # the cache is overwritten from here on

    def close(self) -> None:
        if self._window.close():
            self._request = None

    def _infer(self, tokens: Sequence[int], *, all_logits: bool) -> Logits:
        """Logits [len(tokens) or 1, vocab_size], valid until the next call."""
        begin = self._window.position
        end = begin + len(tokens)
        try:
            self._set_inputs(tokens, begin, end, all_logits=all_logits)
            self._request.infer()
            logits: Logits = self._request.get_output_tensor(0).data[:, 0]
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise RuntimeFailure(f"OpenVINO failed on tokens {begin}..{end - 1}: {reason}") from error
        expected = len(tokens) if all_logits else 1
        if len(logits) != expected:
            # Seen with 2-bit weights under dynamic quantization (2026.4): the engine reports no error.
            raise RuntimeFailure(
                f"OpenVINO gave {len(logits)} rows of logits for {expected}: it has no working kernel for this graph",
                hint="export with another recipe, or without dynamic quantization",
            )
        self._window.position = end
        return logits

    def _set_inputs(self, tokens: Sequence[int], begin: int, end: int, *, all_logits: bool) -> None:
        """The engine reads our arrays; from one single token to the next they are only written to."""
        count = end - begin
        self._past[0], self._length[...] = begin, end
        self._begins[1], self._block_begins[1] = count, -(-end // BLOCK_TOKENS)
        if count == 1:
            self._token[0], self._token_position[0] = tokens[0], begin
            tensors = {} if self._takes_one_token else self._for_one_token
        else:
            wanted = np.arange(0 if all_logits else count - 1, count, dtype=np.int64)
            tensors = {
                "input_ids": openvino.Tensor(np.array(tokens, np.int64)),
                "position_ids": openvino.Tensor(self._positions[begin:end], shared_memory=True),
                ROWS: openvino.Tensor(wanted),
            }
        self._takes_one_token = count == 1
        for name, tensor in tensors.items():
            self._request.set_tensor(name, tensor)
