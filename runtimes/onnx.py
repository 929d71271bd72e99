"""ONNX Runtime over an onnxruntime-genai folder: the plain InferenceSession, without the genai library.

    input_ids [1, n], attention_mask [1, total], past_key_values.N.{key,value} [1, kv_heads, past, head_dim]
    -> logits [1, n, vocab_size], present.N.{key,value}

GroupQueryAttention may write new keys and values in place when `past` and `present` are one buffer. The cache is then
allocated once for the whole context and bound as both, and a token costs no copy of it. The total length comes from
attention_mask. Graphs without that operator get the present tensors back as past.
Spec: onnxruntime ContribOperators.md (GroupQueryAttention), onnxruntime_session_options_config_keys.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgeport.errors import ArtifactError, RuntimeFailure, UnsupportedModel
from edgeport.runtimes.engine_settings import EngineSettings, settings_for
from edgeport.runtimes.onnx_config import read_onnx_config
from edgeport.runtimes.onnx_head import LOGITS_BEGIN, choose_logits_rows
from edgeport.runtimes.session import Logits, SessionOptions
from edgeport.runtimes.threads import first_count
from edgeport.runtimes.window import Window, choose_context_length

_CHUNK_TOKENS = 256
_REWRITTEN_BYTES = 64 * 2**20
"""A graph whose weights lie beside it is rewritten as it is opened; one that holds them is too large to be copied."""
_KEPT_INPUTS = ("input_ids", "attention_mask", "position_ids", LOGITS_BEGIN)
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def open_session(path: Path, options: SessionOptions) -> OnnxSession:
    """`path` is the folder with genai_config.json and model.onnx, or the .onnx file. Raises RuntimeFailure, ArtifactError."""
    folder = path if path.is_dir() else path.parent
    config = read_onnx_config(folder)
    file_name = config.get("model", {}).get("decoder", {}).get("filename", "model.onnx")
    file = folder / file_name if path.is_dir() else path
    if not file.is_file():
        raise ArtifactError(
            f"no {file.name} in {folder}", hint="give the folder `edgeport export` wrote for onnx"
        )
    settings = settings_for("onnx", options.settings, exact=options.exact)
    return OnnxSession(_inference_session(file, options, settings), config, options, settings)


@dataclass(frozen=True, slots=True)
class KeyValueCache:
    """Names and shapes of the key-value cache as the graph declares it; `kv_heads` is one number per name."""

    past: tuple[str, ...]
    present: tuple[str, ...]
    kv_heads: tuple[int, ...]
    head_dim: int
    dtype: Any


class OnnxSession:
    """One sequence; see edgeport.runtimes.session.Session. `shared_cache` says whether the cache is updated in place."""

    def __init__(
        self, session: Any, config: dict[str, Any], options: SessionOptions, settings: EngineSettings
    ) -> None:
        self._session: Any = session
        model = config.get("model", {})
        self._cache = describe_cache(session, model)
        self._inputs = {item.name for item in session.get_inputs()}
        logits = _logits_of(session)
        self._last_row_only = logits.shape[1] == 1  # graphs built with prune_lm_head
        vocab_size = logits.shape[2] if isinstance(logits.shape[2], int) else model.get("vocab_size")
        if vocab_size is None:
            raise UnsupportedModel(
                "neither the graph nor genai_config.json or config.json beside it says how many tokens there are"
            )
        length = choose_context_length(options.context_length, int(model.get("context_length", 2048)))
        self._window = Window(length, int(vocab_size))
        self._mask = np.ones((1, length), np.int64)
        self._positions = np.arange(length, dtype=np.int64)[None, :]
        self.shared_cache = bool(config.get("search", {}).get("past_present_share_buffer"))
        self._buffers = self._allocate(length if self.shared_cache else 0)
        self._logits_dtype = _DTYPES.get(logits.type, np.float32)
        self._chunk_tokens = settings.prompt_chunk_tokens or _CHUNK_TOKENS
        self._chooses_rows = LOGITS_BEGIN in self._inputs
        self._first_row = np.zeros(1, np.int64)
        self._token = np.zeros((1, 1), np.int64)
        self._row = np.empty((1, 1, self._window.vocab_size), self._logits_dtype)
        self._row_value = onnxruntime.OrtValue.ortvalue_from_numpy(self._row)
        self._prompt_binding: Any = None
        self._token_binding: Any = None

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
        if len(tokens) == 1 and self.shared_cache:
            self._run_token(tokens[0])
            return np.array(self._row[0], np.float32)
        step = 1 if all_logits and self._last_row_only else self._chunk_tokens
        rows = []
        for begin in range(0, len(tokens), step):
            logits = self._run(tokens[begin : begin + step], all_logits=all_logits)
            if all_logits or begin + step >= len(tokens):
                rows.append(logits[0, 0 if all_logits else -1 :].astype(np.float32))
        return np.concatenate(rows)

    def rewind(self, position: int) -> None:
        self._window.check_rewind(position)
        if not self.shared_cache:
            kept = [buffer.numpy()[:, :, :position].copy() for buffer in self._buffers]
            self._buffers = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in kept]
        self._window.position = position  # a shared cache is overwritten from here on

    def close(self) -> None:
        if self._window.close():
            self._session = self._prompt_binding = self._token_binding = self._row_value = None
            self._buffers = []

    def _run_token(self, token: int) -> None:
        """One token: everything but the mask and the position is bound once, and the logits come into `_row`."""
        if self._token_binding is None:
            self._token_binding = self._bind_cache()
            value = onnxruntime.OrtValue.ortvalue_from_numpy(self._token)
            self._token_binding.bind_ortvalue_input("input_ids", value)
            self._token_binding.bind_ortvalue_output("logits", self._row_value)
            if self._chooses_rows:
                self._token_binding.bind_cpu_input(LOGITS_BEGIN, self._first_row)
        self._token[0, 0] = token
        self._compute(self._token_binding, self._window.position, self._window.position + 1)

    def _run(self, tokens: Sequence[int], *, all_logits: bool) -> Any:
        """The engine's logits [1, len(tokens) or 1, vocab_size], valid until the next call; the cache then has the tokens."""
        if self._prompt_binding is None or not self.shared_cache:
            self._prompt_binding = self._bind_cache()
        binding = self._prompt_binding
        binding.bind_cpu_input("input_ids", np.asarray(tokens, np.int64)[None, :])
        few = len(tokens) == 1 or self._last_row_only or (self._chooses_rows and not all_logits)
        if self._chooses_rows:
            binding.bind_cpu_input(LOGITS_BEGIN, np.array([len(tokens) - 1 if few else 0], np.int64))
        logits = self._row if few else np.empty((1, len(tokens), self._window.vocab_size), self._logits_dtype)
        value = self._row_value if few else onnxruntime.OrtValue.ortvalue_from_numpy(logits)
        binding.bind_ortvalue_output("logits", value)
        self._compute(binding, self._window.position, self._window.position + len(tokens))
        if not self.shared_cache:
            self._buffers = binding.get_outputs()[:-1]
        return logits

    def _compute(self, binding: Any, begin: int, end: int) -> None:
        if "attention_mask" in self._inputs:
            binding.bind_cpu_input("attention_mask", self._mask[:, :end])
        if "position_ids" in self._inputs:
            binding.bind_cpu_input("position_ids", self._positions[:, begin:end])
        try:
            self._session.run_with_iobinding(binding)
        except engine_errors() as error:
            raise RuntimeFailure(f"ONNX Runtime failed on tokens {begin}..{end - 1}: {error}") from error
        self._window.position = end

    def _bind_cache(self) -> Any:
        """Past and present: one buffer for both when it is shared, else the next run's past comes out of this run.

        Outputs are returned in the order in which they were bound first: the cache, then the logits.
        """
        binding = self._session.io_binding()
        for name, buffer in zip(self._cache.past, self._buffers, strict=True):
            binding.bind_ortvalue_input(name, buffer)
        for name, buffer in zip(self._cache.present, self._buffers, strict=True):
            if self.shared_cache:
                binding.bind_ortvalue_output(name, buffer)
            else:
                binding.bind_output(name, "cpu")
        return binding

    def _allocate(self, length: int) -> list[Any]:
        cache = self._cache
        return [
            onnxruntime.OrtValue.ortvalue_from_numpy(
                np.zeros((1, kv_heads, length, cache.head_dim), cache.dtype)
            )
            for kv_heads in cache.kv_heads
        ]


def _inference_session(file: Path, options: SessionOptions, settings: EngineSettings) -> Any:
    native = onnxruntime.SessionOptions()
    native.log_severity_level = 3  # errors only; they come as exceptions anyway
    native.intra_op_num_threads = first_count(options.threads, settings.threads)
    native.inter_op_num_threads = 1
    native.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    spinning = "0" if settings.spinning is False else "1"
    native.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    model: str | bytes = str(file)
    if options.exact or file.stat().st_size <= _REWRITTEN_BYTES:
        model = choose_logits_rows(file.read_bytes())
        if options.exact:
            model = with_float32_activations(model)
        native.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(file.parent.absolute())
        )
    try:
        return onnxruntime.InferenceSession(model, native, providers=["CPUExecutionProvider"])
    except engine_errors() as error:
        raise RuntimeFailure(f"ONNX Runtime cannot open {file}: {error}") from error


def with_float32_activations(model: bytes) -> bytes:
    """The serialized graph with every MatMulNBits at accuracy_level 1 (float32) instead of 4 (int8 activations).

    The session key mlas.qnbit.force_fp32 does that for 4-bit weights only. An AttributeProto is `name` (field 1) followed
    by `i` (field 3), so the level is the one byte after the name; its length does not change. No onnx package needed.
    """
    name = b"\x0a\x0eaccuracy_level\x18"
    return model.replace(name + b"\x04", name + b"\x01")


def describe_cache(session: Any, model: Mapping[str, Any]) -> KeyValueCache:
    """`model` is genai_config.json's: the builder of onnxruntime-genai 0.18 leaves the head's width to it."""
    past = [item for item in session.get_inputs() if item.name not in _KEPT_INPUTS]
    if not past or any(not item.name.startswith("past_key_values.") for item in past):
        raise _no_decoder([item.name for item in session.get_inputs()])
    dtype = _DTYPES.get(past[0].type)
    if dtype is None:
        raise UnsupportedModel(
            f"a key-value cache of {past[0].type} is not supported", hint="export it as float or float16"
        )
    inputs = tuple(str(item.name) for item in past)
    outputs = tuple(name.replace("past_key_values.", "present.") for name in inputs)
    told = model.get("decoder", {})
    sizes = [item.shape if len(item.shape) == 4 else (None,) * 4 for item in past]
    kv_heads = [size[1] if isinstance(size[1], int) else told.get("num_key_value_heads") for size in sizes]
    head_dim = sizes[0][3] if isinstance(sizes[0][3], int) else told.get("head_size")
    if head_dim is None or None in kv_heads:
        raise UnsupportedModel(
            f"neither the graph nor genai_config.json or config.json says how wide a head is and how many there are: the cache "
            f"has the shape {past[0].shape}"
        )
    return KeyValueCache(inputs, outputs, tuple(map(int, kv_heads)), int(head_dim), dtype)


def _logits_of(session: Any) -> Any:
    outputs = {item.name: item for item in session.get_outputs()}
    if "logits" not in outputs or len(outputs["logits"].shape) != 3:
        raise UnsupportedModel(
            f"this ONNX graph gives no logits of each token; its outputs are {', '.join(outputs)}"
        )
    return outputs["logits"]


def _no_decoder(inputs: Sequence[str]) -> UnsupportedModel:
    hint = None
    if "use_cache_branch" in inputs:
        hint = "it is optimum's merged decoder: export it again without merging (--no-post-process)"
    elif set(inputs) <= set(_KEPT_INPUTS):
        hint = "export it again with its cache: optimum's --task text-generation-with-past"
    return UnsupportedModel(
        f"this ONNX graph is not a decoder with a key-value cache; its inputs are {', '.join(inputs)}",
        hint=hint,
    )


def engine_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: its own types, all direct children of Exception, and RuntimeError for the rest."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    kinds = [item for item in vars(native).values() if isinstance(item, type) and issubclass(item, Exception)]
    return (*kinds, RuntimeError, ValueError)
