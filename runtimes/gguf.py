"""llama.cpp over a GGUF file, through its C interface: decode in batches, read logits rows, cut the cache to rewind.

`exact`: llama.cpp multiplies quantized weights with 8-bit activations and has no switch for it. The exact session lets
llama.cpp itself write a float32 copy of the file (its own dequantization) into a temporary folder, and runs that with a
float32 cache and without flash attention. It needs four bytes per weight and is for parity tests.
Spec: llama.h of the llama.cpp that llama-cpp-python 0.3.36 carries.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np

from edgeport.errors import RuntimeFailure
from edgeport.runtimes import llama_library
from edgeport.runtimes.session import Logits, SessionOptions
from edgeport.runtimes.threads import thread_count
from edgeport.runtimes.window import Window, choose_context_length

_BATCH_TOKENS = 512
_LOGITS_ROWS = 64
"""Rows of logits one decode may ask for. The library reserves that many in its compute buffer: 512 rows of a 150k
vocabulary would be 300 MB."""
_FILE_TYPE_ALL_F32 = 0
_TYPE_F32 = 0
_FLASH_ATTENTION_OFF = 0


def open_session(path: Path, options: SessionOptions) -> GgufSession:
    """`path` is the .gguf file or a folder with one. Raises RuntimeFailure with llama.cpp's reason."""
    file = llama_library.find_file(path)
    if not options.exact:
        return GgufSession(llama_library.load_model(file), options)
    with tempfile.TemporaryDirectory(prefix="edgeport-gguf-") as folder:
        exact_file = Path(folder) / "float32.gguf"
        _write_float32(file, exact_file)
        return GgufSession(llama_library.load_model(exact_file), options)


class GgufSession:
    """One sequence; see edgeport.runtimes.session.Session. Owns the model and frees it on close."""

    def __init__(self, model: Any, options: SessionOptions) -> None:
        self._model, self._context, self._batch = model, None, None
        try:
            length = choose_context_length(options.context_length, native.llama_model_n_ctx_train(model))
            vocabulary = native.llama_model_get_vocab(model)
            self._window = Window(length, native.llama_vocab_n_tokens(vocabulary))
            self._batch_tokens = min(_BATCH_TOKENS, length)
            self._context = _new_context(model, length, self._batch_tokens, options)
            self._batch = native.llama_batch_init(self._batch_tokens, 0, 1)
        except BaseException:
            self._free()
            raise

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
        step = min(self._batch_tokens, _LOGITS_ROWS) if all_logits else self._batch_tokens
        rows = []
        for begin in range(0, len(tokens), step):
            chunk = tokens[begin : begin + step]
            self._decode(chunk, all_logits=all_logits)
            if all_logits:
                rows.append(self._logits(len(chunk)))
        return np.concatenate(rows) if all_logits else self._logits(1)

    def rewind(self, position: int) -> None:
        self._window.check_rewind(position)
        memory = native.llama_get_memory(self._context)
        if not native.llama_memory_seq_rm(memory, 0, position, -1):
            raise RuntimeFailure(f"llama.cpp cannot rewind this model to token {position}")
        self._window.position = position

    def close(self) -> None:
        if self._window.close():
            self._free()

    def _decode(self, tokens: Sequence[int], *, all_logits: bool) -> None:
        batch = self._batch
        assert batch is not None
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = self._window.position + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = all_logits
        batch.logits[len(tokens) - 1] = True
        status = native.llama_decode(self._context, batch)
        if status != 0:
            native.llama_memory_seq_rm(native.llama_get_memory(self._context), 0, self._window.position, -1)
            raise RuntimeFailure(
                f"llama_decode failed with {status} at token {self._window.position}: {llama_library.last_cause()}"
            )
        self._window.position += len(tokens)

    def _logits(self, rows: int) -> Logits:
        """A copy of the last decode's rows [rows, vocab_size]; they lie in the order of the batch."""
        pointer = native.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(rows, self.vocab_size)).astype(np.float32)

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
    parameters.n_batch = parameters.n_ubatch = batch_tokens
    parameters.n_outputs_max = min(_LOGITS_ROWS, batch_tokens)
    parameters.n_threads = parameters.n_threads_batch = thread_count(options.threads)
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


def _write_float32(file: Path, target: Path) -> None:
    llama_library.start()
    parameters = native.llama_model_quantize_default_params()
    parameters.ftype = _FILE_TYPE_ALL_F32
    parameters.allow_requantize = True
    parameters.nthread = thread_count(None)
    if native.llama_model_quantize(str(file).encode(), str(target).encode(), ctypes.byref(parameters)) != 0:
        raise RuntimeFailure(f"llama.cpp cannot write {file} as float32: {llama_library.last_cause()}")
