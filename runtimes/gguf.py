"""llama.cpp over a GGUF file, through its C interface: decode in batches, read logits rows, cut the cache to rewind.

`exact`: llama.cpp multiplies quantized weights with 8-bit activations and has no switch for it. The exact session lets
llama.cpp itself write a float32 copy of the file (its own dequantization) into a temporary folder, and runs that with a
float32 cache and without flash attention. It needs four bytes per weight and is for parity tests.
Layers with a sliding window keep only their window (llama.cpp's own default keeps the whole context for them); rewinding
further than that feeds the tokens before it again. Spec: llama.h of the llama.cpp that llama-cpp-python 0.3.36 carries.
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
from edgeport.runtimes.engine_settings import EngineSettings, settings_for
from edgeport.runtimes.llama_batch import LogitsReader, TokenBatch
from edgeport.runtimes.llama_threads import ThreadPool, attach_threads
from edgeport.runtimes.session import Logits, SessionOptions
from edgeport.runtimes.threads import first_count, thread_count
from edgeport.runtimes.window import Window, choose_context_length

_BATCH_TOKENS = 512
_LOGITS_ROWS = 64
"""Rows of logits one decode may ask for. The library reserves that many in its compute buffer: 512 rows of a 150k
vocabulary would be 300 MB."""
_FILE_TYPE_ALL_F32 = 0
_CACHE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}
"""ggml_type."""
_FLASH_ATTENTION_OFF, _FLASH_ATTENTION_ON = 0, 1


def open_session(path: Path, options: SessionOptions) -> GgufSession:
    """`path` is the .gguf file or a folder with one. Raises RuntimeFailure with llama.cpp's reason."""
    file = llama_library.find_file(path)
    settings = settings_for("gguf", options.settings, exact=options.exact)
    if not options.exact:
        return GgufSession(_load(file, settings), options, settings)
    with tempfile.TemporaryDirectory(prefix="edgeport-gguf-") as folder:
        exact_file = Path(folder) / "float32.gguf"
        write_float32(file, exact_file)
        return GgufSession(_load(exact_file, settings), options, settings)


class GgufSession:
    """One sequence; see edgeport.runtimes.session.Session. Owns the model and frees it on close."""

    def __init__(self, model: Any, options: SessionOptions, settings: EngineSettings) -> None:
        self._model, self._context = model, None
        self._batch: TokenBatch | None = None
        self._threads: ThreadPool | None = None
        try:
            length = choose_context_length(options.context_length, native.llama_model_n_ctx_train(model))
            vocabulary = native.llama_model_get_vocab(model)
            self._window = Window(length, native.llama_vocab_n_tokens(vocabulary))
            self._batch_tokens = min(settings.prompt_chunk_tokens or _BATCH_TOKENS, length)
            parameters = _context_parameters(length, self._batch_tokens, options, settings)
            self._context = _new_context(model, parameters)
            workers = max(parameters.n_threads, parameters.n_threads_batch)
            self._threads = attach_threads(self._context, workers, spinning=settings.spinning is not False)
            self._batch = TokenBatch(self._batch_tokens)
            self._reader = LogitsReader(self._window.vocab_size)
            self._sliding_tokens = 0 if settings.full_window_cache else int(native.llama_model_n_swa(model))
            self._fed: list[int] = []
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
        if len(tokens) == 1:
            self._decode(tokens, all_logits=False)
            return self._reader.read(self._context, 1)
        step = min(self._batch_tokens, _LOGITS_ROWS) if all_logits else self._batch_tokens
        rows = []
        for begin in range(0, len(tokens), step):
            chunk = tokens[begin : begin + step]
            self._decode(chunk, all_logits=all_logits)
            if all_logits:
                rows.append(self._reader.read(self._context, len(chunk)))
        return np.concatenate(rows) if all_logits else self._reader.read(self._context, 1)

    def rewind(self, position: int) -> None:
        self._window.check_rewind(position)
        memory = native.llama_get_memory(self._context)
        if not native.llama_memory_seq_rm(memory, 0, position, -1):
            raise RuntimeFailure(f"llama.cpp cannot rewind this model to token {position}")
        self._window.position = position
        if self._sliding_tokens:
            self._restore_window(memory, position)

    def close(self) -> None:
        if self._window.close():
            self._free()

    def _restore_window(self, memory: Any, position: int) -> None:
        """Layers with a sliding window have dropped what lay before it: where a token is missing, feed all again."""
        kept, self._fed = self._fed[:position], []
        first = native.llama_memory_seq_pos_min(memory, 0)  # -1 when nothing is left
        if position == 0 or 0 <= first <= max(0, position - self._sliding_tokens):
            self._fed = kept
            return
        native.llama_memory_seq_rm(memory, 0, 0, -1)
        self._window.position = 0
        for begin in range(0, position, self._batch_tokens):
            self._decode(kept[begin : begin + self._batch_tokens], all_logits=False)

    def _decode(self, tokens: Sequence[int], *, all_logits: bool) -> None:
        batch, window = self._batch, self._window
        assert batch is not None
        batch.fill(tokens, window.position, all_logits=all_logits)
        status = native.llama_decode(self._context, batch.native)
        if status != 0:
            native.llama_memory_seq_rm(native.llama_get_memory(self._context), 0, window.position, -1)
            raise RuntimeFailure(
                f"llama_decode failed with {status} at token {window.position}: {llama_library.last_cause()}"
            )
        window.position += len(tokens)
        if self._sliding_tokens:
            self._fed.extend(tokens)

    def _free(self) -> None:
        if self._batch is not None:
            self._batch.free()
        if self._context is not None:
            native.llama_free(self._context)
        if self._threads is not None:
            self._threads.free()
        if self._model is not None:
            native.llama_model_free(self._model)
        self._model = self._context = self._batch = self._threads = None


def _load(file: Path, settings: EngineSettings) -> Any:
    return llama_library.load_model(
        file,
        repack=settings.repack is not False,
        memory_map=settings.memory_map,
        lock_memory=bool(settings.lock_memory),
    )


def _context_parameters(
    length: int, batch_tokens: int, options: SessionOptions, settings: EngineSettings
) -> Any:
    parameters = native.llama_context_default_params()
    parameters.n_ctx = length
    parameters.n_batch = parameters.n_ubatch = batch_tokens
    parameters.n_outputs_max = min(_LOGITS_ROWS, batch_tokens)
    parameters.n_threads = first_count(options.threads, settings.threads)
    parameters.n_threads_batch = first_count(options.threads, settings.prompt_threads, parameters.n_threads)
    parameters.no_perf = True
    parameters.swa_full = bool(settings.full_window_cache)
    # Left to llama.cpp attention is fused, which is faster wherever the weights are what costs (docs/tune.md).
    if options.exact or settings.flash_attention is not None:
        fused = bool(settings.flash_attention) and not options.exact
        parameters.flash_attn_type = _FLASH_ATTENTION_ON if fused else _FLASH_ATTENTION_OFF
    for name, kind in (("type_k", settings.key_cache), ("type_v", settings.value_cache)):
        if options.exact or kind is not None:
            setattr(parameters, name, _CACHE_TYPES["f32" if options.exact else str(kind)])
    return parameters


def _new_context(model: Any, parameters: Any) -> Any:
    context = native.llama_init_from_model(model, parameters)
    if not context:
        raise RuntimeFailure(
            f"llama.cpp cannot make a context of {parameters.n_ctx} tokens: {llama_library.last_cause()}"
        )
    return context


def write_float32(file: Path, target: Path) -> None:
    llama_library.start()
    parameters = native.llama_model_quantize_default_params()
    parameters.ftype = _FILE_TYPE_ALL_F32
    parameters.allow_requantize = True
    parameters.nthread = thread_count(None)
    if native.llama_model_quantize(str(file).encode(), str(target).encode(), ctypes.byref(parameters)) != 0:
        raise RuntimeFailure(f"llama.cpp cannot write {file} as float32: {llama_library.last_cause()}")
