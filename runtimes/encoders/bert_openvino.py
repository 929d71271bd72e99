"""An exported encoder in OpenVINO: openvino_model.xml with input_ids, attention_mask and perhaps token_type_ids, as optimum-intel
writes it too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import openvino
from edgeport.errors import ArtifactError, RuntimeFailure, UnsupportedModel
from edgeport.runtimes.encoder import HiddenStates, SequenceLimits, encoder_threads
from edgeport.runtimes.encoder_container import read_limits
from edgeport.runtimes.encoders.batches import Tokens, encode_padded
from edgeport.runtimes.openvino import EXACT_PROPERTIES, MODEL_NAME, first_cause
from edgeport.runtimes.session import SessionOptions

_STATES = "last_hidden_state"
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def open_encoder(path: Path, options: SessionOptions) -> OpenVinoBertEncoder:
    """`path` is the folder with openvino_model.xml and .bin, or the .xml; config.json lies beside it."""
    file = path / MODEL_NAME if path.is_dir() else path
    if not file.is_file():
        raise ArtifactError(
            f"no {file.name} in {file.parent}", hint="give the folder `edgeport export` wrote"
        )
    properties = {
        "PERFORMANCE_HINT": "LATENCY",  # one request at a time, on all its threads
        "INFERENCE_NUM_THREADS": str(encoder_threads(options)),
        **(EXACT_PROPERTIES if options.exact else {}),
    }
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(str(file)), "CPU", properties)
    except RuntimeError as error:
        raise RuntimeFailure(f"OpenVINO cannot open {file}: {first_cause(error)}") from error
    return OpenVinoBertEncoder(compiled, read_limits(file.parent, options))


class OpenVinoBertEncoder:
    """See edgeport.runtimes.encoder.Encoder and edgeport.runtimes.classification.Classifier."""

    def __init__(self, compiled: Any, limits: SequenceLimits) -> None:
        self._limits = limits
        self._inputs = [port.get_any_name() for port in compiled.inputs]
        self._outputs = {name for port in compiled.outputs for name in port.get_names()}
        foreign = [name for name in self._inputs if name not in _INPUTS]
        if foreign or "input_ids" not in self._inputs:
            raise UnsupportedModel(
                f"this IR has the inputs {', '.join(self._inputs)}, an encoder has {', '.join(_INPUTS)}"
            )
        self._request: Any = compiled.create_infer_request()
        self.hidden_size = 0
        if _STATES in self._outputs:
            self.hidden_size = int(compiled.output(_STATES).partial_shape[2].get_length())

    @property
    def vocab_size(self) -> int:
        return self._limits.vocab_size

    @property
    def context_length(self) -> int:
        return self._limits.context_length

    def encode(self, sequences: Sequence[Sequence[int]]) -> list[HiddenStates]:
        return self._all(_STATES, sequences)

    def logits(self, sequences: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        """[labels] of each sequence, or [tokens, labels]."""
        return self._all("logits", sequences)

    def close(self) -> None:
        if self._limits.close():
            self._request = None

    def _all(self, output: str, sequences: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        if output not in self._outputs:
            raise UnsupportedModel(f"this IR has no output {output!r}")
        self._limits.admit(sequences)
        return encode_padded(sequences, lambda tokens, mask: self._run(output, tokens, mask))

    def _run(self, output: str, tokens: Tokens, mask: Tokens) -> npt.NDArray[np.float32]:
        """[sequences, n, width], or [sequences, width]."""
        values = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
        try:
            self._request.infer({name: values[name] for name in self._inputs})
        except RuntimeError as error:
            raise RuntimeFailure(
                f"OpenVINO failed on {tokens.shape[0]} sequences of up to {tokens.shape[1]} tokens: {first_cause(error)}"
            ) from error
        return np.array(self._request.get_tensor(output).data, np.float32)
