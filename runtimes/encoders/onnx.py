"""Hidden states from ONNX Runtime: the decoder's graph without its head (edgeport.runtimes.onnx_graph).

Short sequences share a run, padded at the end: attention looks back only, so padding changes nothing. A long one goes through in
pieces, each with the keys and values of those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgeport.errors import ArtifactError, RuntimeFailure
from edgeport.runtimes.encoder import HiddenStates, SequenceLimits, encoder_threads
from edgeport.runtimes.encoders.batches import BATCH_TOKENS, Tokens, encode_padded
from edgeport.runtimes.model_config import read_json
from edgeport.runtimes.onnx import describe_cache, engine_errors, with_float32_activations
from edgeport.runtimes.onnx_graph import end_at_hidden_states
from edgeport.runtimes.session import SessionOptions
from edgeport.runtimes.window import choose_context_length


def open_encoder(path: Path, options: SessionOptions) -> OnnxEncoder:
    """`path` is the folder with genai_config.json and model.onnx, or the .onnx file."""
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / "genai_config.json").get("model", {})
    file = folder / config.get("decoder", {}).get("filename", "model.onnx") if path.is_dir() else path
    if not file.is_file():
        raise ArtifactError(
            f"no {file.name} in {folder}", hint="give the folder `edgeport export` wrote for onnx"
        )
    model, name = end_at_hidden_states(file.read_bytes())
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = encoder_threads(options)
    settings.inter_op_num_threads = 1
    settings.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder.absolute())
    )
    if options.exact:
        model = with_float32_activations(model)
    try:
        session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except engine_errors() as error:
        raise RuntimeFailure(f"ONNX Runtime cannot open {file}: {error}") from error
    return OnnxEncoder(session, name, config, options)


class OnnxEncoder:
    """See edgeport.runtimes.encoder.Encoder."""

    def __init__(self, session: Any, output: str, config: dict[str, Any], options: SessionOptions) -> None:
        self._session: Any = session
        self._cache = describe_cache(session, config)
        self._has_positions = any(item.name == "position_ids" for item in session.get_inputs())
        missing = [name for name in ("context_length", "vocab_size", "decoder") if name not in config]
        if missing:
            raise ArtifactError(
                f"genai_config.json does not say model.{missing[0]}",
                hint="put it beside the .onnx file, whole",
            )
        length = choose_context_length(options.context_length, int(config["context_length"]))
        self._limits = SequenceLimits(length, int(config["vocab_size"]))
        self._outputs = [output, *self._cache.present]
        self.hidden_size = int(config["decoder"]["hidden_size"])

    @property
    def vocab_size(self) -> int:
        return self._limits.vocab_size

    @property
    def context_length(self) -> int:
        return self._limits.context_length

    def encode(self, sequences: Sequence[Sequence[int]]) -> list[HiddenStates]:
        self._limits.admit(sequences)
        return encode_padded(sequences, self._run_pieces)

    def close(self) -> None:
        if self._limits.close():
            self._session = None

    def _run_pieces(self, tokens: Tokens, mask: Tokens) -> HiddenStates:
        """tokens [sequences, n] -> states [sequences, n, hidden_size]; only a single sequence has more than one piece."""
        cache = [
            np.zeros((len(tokens), heads, 0, self._cache.head_dim), self._cache.dtype)
            for heads in self._cache.kv_heads
        ]
        pieces = []
        for begin in range(0, tokens.shape[1], BATCH_TOKENS):
            states, *cache = self._run(tokens[:, begin : begin + BATCH_TOKENS], mask, begin, cache)
            pieces.append(np.asarray(states, np.float32))
        return np.concatenate(pieces, axis=1)

    def _run(self, tokens: Tokens, mask: Tokens, begin: int, cache: Sequence[Any]) -> list[Any]:
        end = begin + tokens.shape[1]
        values = {"input_ids": tokens, "attention_mask": mask[:, :end]}
        if self._has_positions:
            values["position_ids"] = np.broadcast_to(np.arange(begin, end), tokens.shape).copy()
        values |= dict(zip(self._cache.past, cache, strict=True))
        try:
            found: list[Any] = self._session.run(self._outputs, values)
        except engine_errors() as error:
            raise RuntimeFailure(f"ONNX Runtime failed on tokens {begin}..{end - 1}: {error}") from error
        return found
