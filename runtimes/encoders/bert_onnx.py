"""An exported encoder in ONNX Runtime: model.onnx with input_ids, attention_mask and perhaps token_type_ids.

Any encoder with these names runs, whoever exported it: Optimum's and sentence-transformers' files have the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from edgeport.errors import ArtifactError, RuntimeFailure, UnsupportedModel
from edgeport.runtimes.encoder import HiddenStates, SequenceLimits, encoder_threads
from edgeport.runtimes.encoder_container import read_limits
from edgeport.runtimes.encoders.batches import Tokens, encode_padded
from edgeport.runtimes.onnx import engine_errors, with_float32_activations
from edgeport.runtimes.session import SessionOptions

STATES = ("last_hidden_state", "token_embeddings")
"""The second is sentence-transformers' name."""
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def open_encoder(path: Path, options: SessionOptions) -> OnnxBertEncoder:
    """`path` is the folder with model.onnx, or the .onnx file; config.json lies beside it."""
    file = path / "model.onnx" if path.is_dir() else path
    if not file.is_file():
        raise ArtifactError(
            f"no {file.name} in {file.parent}", hint="give the folder `edgeport export` wrote"
        )
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = encoder_threads(options)
    settings.inter_op_num_threads = 1
    settings.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(file.parent.absolute())
    )
    model = file.read_bytes()
    if options.exact:
        model = with_float32_activations(model)
    try:
        session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except engine_errors() as error:
        raise RuntimeFailure(f"ONNX Runtime cannot open {file}: {error}") from error
    return OnnxBertEncoder(session, read_limits(file.parent, options))


class OnnxBertEncoder:
    """See edgeport.runtimes.encoder.Encoder and edgeport.runtimes.classification.Classifier."""

    def __init__(self, session: Any, limits: SequenceLimits) -> None:
        self._session: Any = session
        self._limits = limits
        self._inputs = [item.name for item in session.get_inputs()]
        outputs = {item.name: item.shape for item in session.get_outputs()}
        foreign = [name for name in self._inputs if name not in _INPUTS]
        if foreign or "input_ids" not in self._inputs:
            raise UnsupportedModel(
                f"this graph has the inputs {', '.join(self._inputs)}, an encoder has {', '.join(_INPUTS)}"
            )
        self._states = next((name for name in STATES if name in outputs), None)
        self._has_logits = "logits" in outputs
        self.hidden_size = int(outputs[self._states][-1]) if self._states else 0

    @property
    def vocab_size(self) -> int:
        return self._limits.vocab_size

    @property
    def context_length(self) -> int:
        return self._limits.context_length

    def encode(self, sequences: Sequence[Sequence[int]]) -> list[HiddenStates]:
        if self._states is None:
            raise UnsupportedModel(f"this graph has none of the outputs {', '.join(STATES)}")
        self._limits.admit(sequences)
        name = self._states
        return encode_padded(sequences, lambda tokens, mask: self._run(name, tokens, mask))

    def logits(self, sequences: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        """[labels] of each sequence, or [tokens, labels]."""
        if not self._has_logits:
            raise UnsupportedModel("this graph has no output 'logits'")
        self._limits.admit(sequences)
        return encode_padded(sequences, lambda tokens, mask: self._run("logits", tokens, mask))

    def close(self) -> None:
        if self._limits.close():
            self._session = None

    def _run(self, output: str, tokens: Tokens, mask: Tokens) -> npt.NDArray[np.float32]:
        """[sequences, n, width], or [sequences, width]."""
        values = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
        try:
            found = self._session.run([output], {name: values[name] for name in self._inputs})[0]
        except engine_errors() as error:
            raise RuntimeFailure(
                f"ONNX Runtime failed on {tokens.shape[0]} sequences of up to {tokens.shape[1]} tokens: {error}"
            ) from error
        return np.asarray(found, np.float32)
