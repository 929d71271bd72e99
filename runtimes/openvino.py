"""OpenVINO over the stateful IR that export writes.

Its attention is rewritten to the paged kind when it is opened (edgeport.runtimes.openvino_paged). A graph that cannot be is run as
it is, with the key-value cache in the model's variables (ReadValue/Assign) and the head behind a gather:

    input_ids [1, n], attention_mask [1, total], position_ids [1, n], beam_idx [1], rows [m] -> logits [1, m, vocab_size]

Rewinding to 0 resets that state; elsewhere each variable is read, cut and written back. The CPU plug-in keeps it as u8 and
converts on both ways; the same codes come out, because minimum and maximum of a group are kept.
Spec: https://docs.openvino.ai (Stateful models; CPU device: properties).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import openvino
from edgeport.errors import ArtifactError, RuntimeFailure, UnsupportedModel
from edgeport.runtimes.engine_settings import EngineSettings, settings_for
from edgeport.runtimes.model_config import read_context_length
from edgeport.runtimes.openvino_head import ROWS, gather_rows, head_product
from edgeport.runtimes.openvino_paged import PagedSession, paged
from edgeport.runtimes.session import Logits, Session, SessionOptions
from edgeport.runtimes.threads import first_count
from edgeport.runtimes.window import Window, choose_context_length

MODEL_NAME = "openvino_model.xml"
_CHUNK_TOKENS = 256
_PROPERTIES: Mapping[str, str] = {
    "key_cache": "KEY_CACHE_PRECISION",
    "value_cache": "VALUE_CACHE_PRECISION",
    "dynamic_quantization_group": "DYNAMIC_QUANTIZATION_GROUP_SIZE",
    "inference_precision": "INFERENCE_PRECISION_HINT",
}
_SWITCHES: Mapping[str, str] = {"pin_threads": "ENABLE_CPU_PINNING", "memory_map": "ENABLE_MMAP"}
EXACT_PROPERTIES = {
    "EXECUTION_MODE_HINT": "ACCURACY",
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}


def open_session(path: Path, options: SessionOptions) -> Session:
    """`path` is the folder with openvino_model.xml and .bin, or the .xml. Raises ArtifactError, RuntimeFailure."""
    file = path / MODEL_NAME if path.is_dir() else path
    if not file.is_file():
        raise ArtifactError(
            f"no {file.name} in {file.parent}", hint="give the folder `edgeport export` wrote for openvino"
        )
    settings = settings_for("openvino", options.settings, exact=options.exact)
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(first_count(options.threads, settings.threads)),
        **_properties(settings),
        **(EXACT_PROPERTIES if options.exact else {}),
    }
    try:
        return _open(file, properties, options, settings)
    except RuntimeError as error:
        raise RuntimeFailure(f"OpenVINO cannot open {file}: {first_cause(error)}") from error


def _open(
    file: Path, properties: dict[str, str], options: SessionOptions, settings: EngineSettings
) -> Session:
    core, model_length = openvino.Core(), read_context_length(file.parent)
    try:
        model = paged(core.read_model(str(file)))
    except UnsupportedModel:
        compiled = core.compile_model(_stateful(core.read_model(str(file))), "CPU", properties)
        return OpenVinoSession(compiled, model_length, options, settings)
    length = choose_context_length(options.context_length, model_length)
    compiled = core.compile_model(model, "CPU", {"KV_CACHE_PRECISION": "f16"} | properties)
    return PagedSession(compiled, length, settings.prompt_chunk_tokens or _CHUNK_TOKENS)


def _stateful(model: Any) -> Any:
    """With the head behind a gather; as it is where that is not found, and computes every row's logits then."""
    with contextlib.suppress(UnsupportedModel):
        hidden = head_product(model.get_results()[0]).get_input_partial_shape(0)
        if hidden.rank.is_static and len(hidden) == 3:
            gather_rows(model, axis=1)
    return model


class OpenVinoSession:
    """One sequence; see edgeport.runtimes.session.Session."""

    def __init__(
        self, compiled: Any, model_context_length: int, options: SessionOptions, settings: EngineSettings
    ) -> None:
        self._inputs = {port.get_any_name() for port in compiled.inputs}
        vocab = compiled.outputs[0].partial_shape[2]
        if not {"input_ids", "attention_mask"} <= self._inputs or vocab.is_dynamic:
            names = ", ".join(sorted(self._inputs))
            raise UnsupportedModel(f"this IR is not a stateful decoder; its inputs are {names}")
        self._request: Any = compiled.create_infer_request()
        length = choose_context_length(options.context_length, model_context_length)
        self._window = Window(length, vocab.get_length())
        self._mask = np.ones((1, length), np.int64)
        self._positions = np.arange(length, dtype=np.int64)[None, :]
        self._chunk_tokens = settings.prompt_chunk_tokens or _CHUNK_TOKENS
        self._token, self._first_row = np.zeros((1, 1), np.int64), openvino.Tensor(np.zeros(1, np.int64))
        self._token_tensor = openvino.Tensor(self._token, shared_memory=True)
        if "beam_idx" in self._inputs:
            self._request.set_tensor("beam_idx", openvino.Tensor(np.zeros(1, np.int32)))

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
        return np.concatenate(rows) if all_logits else logits[-1:].copy()

    def rewind(self, position: int) -> None:
        self._window.check_rewind(position)
        if 0 < position == self._window.position:
            return
        try:
            if position == 0:  # counted or not: an interrupted call may have left something
                self._request.reset_state()
            else:
                self._cut_state(position)
        except RuntimeError as error:
            raise RuntimeFailure(f"OpenVINO cannot rewind to {position}: {first_cause(error)}") from error
        self._window.position = position

    def close(self) -> None:
        if self._window.close():
            self._request = None

    def _cut_state(self, position: int) -> None:
        for variable in self._request.query_state():
            values = variable.state.data  # [1, kv_heads, tokens, head_dim]
            if values.ndim != 4 or values.shape[2] != self._window.position:
                raise RuntimeFailure(
                    f"cannot rewind this model: its state {variable.name} has the shape {values.shape}"
                )
            variable.state = openvino.Tensor(np.ascontiguousarray(values[:, :, :position]))

    def _set_inputs(self, tokens: Sequence[int], begin: int, end: int) -> None:
        """The engine reads our arrays; a single token has a tensor of its own that is only written to."""
        if len(tokens) == 1:
            self._token[0, 0] = tokens[0]
            self._request.set_tensor("input_ids", self._token_tensor)
        else:
            self._request.set_tensor("input_ids", openvino.Tensor(np.array([tokens], np.int64)))
        mask = openvino.Tensor(self._mask[:, :end], shared_memory=True)
        self._request.set_tensor("attention_mask", mask)
        if "position_ids" in self._inputs:
            positions = openvino.Tensor(self._positions[:, begin:end], shared_memory=True)
            self._request.set_tensor("position_ids", positions)

    def _set_rows(self, count: int, *, all_logits: bool) -> int:
        """Returns how many rows of logits come back for `count` tokens."""
        if ROWS not in self._inputs:
            return count
        wanted = count if all_logits else 1
        rows = np.arange(count - wanted, count, dtype=np.int64)
        self._request.set_tensor(ROWS, self._first_row if count == 1 else openvino.Tensor(rows))
        return wanted

    def _infer(self, tokens: Sequence[int], *, all_logits: bool) -> Logits:
        """Logits [len(tokens) or 1, vocab_size], valid until the next call."""
        begin = self._window.position
        end = begin + len(tokens)
        try:
            self._set_inputs(tokens, begin, end)
            expected = self._set_rows(len(tokens), all_logits=all_logits)
            self._request.infer()
            logits: Logits = self._request.get_output_tensor(0).data[0]
        except RuntimeError as error:
            raise RuntimeFailure(
                f"OpenVINO failed on tokens {begin}..{end - 1}: {first_cause(error)}"
            ) from error
        if len(logits) != expected:
            # Seen with 2-bit weights under dynamic quantization (2026.4): the engine reports no error.
            raise RuntimeFailure(
                f"OpenVINO gave {len(logits)} rows of logits for {expected}: it has no working kernel for this graph",
                hint="export with another recipe, or without dynamic quantization",
            )
        self._window.position = end
        return logits


def _properties(settings: EngineSettings) -> dict[str, str]:
    """Settings as the plug-in's properties."""
    chosen = settings.chosen()
    found = {key: str(chosen[name]) for name, key in _PROPERTIES.items() if name in chosen}
    found |= {key: "YES" if chosen[name] else "NO" for name, key in _SWITCHES.items() if name in chosen}
    if settings.cache_group_size is not None:
        group = str(settings.cache_group_size)
        found |= dict.fromkeys(("KEY_CACHE_GROUP_SIZE", "VALUE_CACHE_GROUP_SIZE"), group)
    return found


def first_cause(error: RuntimeError) -> str:
    """OpenVINO's messages begin with source file and line; the last non-empty line says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "it gives no reason"
