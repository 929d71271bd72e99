"""Hidden states from OpenVINO: the stateful decoder with its head's input as the result instead of `logits`.

Short sequences share a run, padded at the end: attention looks back only, so padding changes nothing. A long one goes through in
pieces; the state is reset before each run of new sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import openvino
from edgeport.errors import ArtifactError, RuntimeFailure, UnsupportedModel
from edgeport.runtimes.encoder import HiddenStates, SequenceLimits, encoder_threads
from edgeport.runtimes.encoders.batches import BATCH_TOKENS, Tokens, encode_padded
from edgeport.runtimes.model_config import read_context_length
from edgeport.runtimes.openvino import EXACT_PROPERTIES, MODEL_NAME, first_cause
from edgeport.runtimes.openvino_head import head_product
from edgeport.runtimes.session import SessionOptions
from edgeport.runtimes.window import choose_context_length

_LOGITS = "logits"


def open_encoder(path: Path, options: SessionOptions) -> OpenVinoEncoder:
    """`path` is the folder with openvino_model.xml and .bin, or the .xml."""
    file = path / MODEL_NAME if path.is_dir() else path
    if not file.is_file():
        raise ArtifactError(
            f"no {file.name} in {file.parent}", hint="give the folder `edgeport export` wrote for openvino"
        )
    properties = {
        "PERFORMANCE_HINT": "LATENCY",  # one request at a time, on all its threads
        "INFERENCE_NUM_THREADS": str(encoder_threads(options)),
        **(EXACT_PROPERTIES if options.exact else {}),
    }
    try:
        core = openvino.Core()
        model = core.read_model(str(file))
        vocab_size = _end_at_hidden_states(model)
        compiled = core.compile_model(model, "CPU", properties)
    except RuntimeError as error:
        raise RuntimeFailure(f"OpenVINO cannot open {file}: {first_cause(error)}") from error
    length = choose_context_length(options.context_length, read_context_length(file.parent))
    return OpenVinoEncoder(compiled, SequenceLimits(length, vocab_size))


class OpenVinoEncoder:
    """See edgeport.runtimes.encoder.Encoder."""

    def __init__(self, compiled: Any, limits: SequenceLimits) -> None:
        self._limits = limits
        self._inputs = {port.get_any_name() for port in compiled.inputs}
        self._request: Any = compiled.create_infer_request()
        self.hidden_size = int(compiled.outputs[0].partial_shape[2].get_length())

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
            self._request = None

    def _run_pieces(self, tokens: Tokens, mask: Tokens) -> HiddenStates:
        """tokens [sequences, n] -> states [sequences, n, hidden_size]; only a single sequence has more than one piece."""
        try:
            self._request.reset_state()
            pieces = [
                self._run(tokens[:, begin : begin + BATCH_TOKENS], mask, begin)
                for begin in range(0, tokens.shape[1], BATCH_TOKENS)
            ]
        except RuntimeError as error:
            raise RuntimeFailure(
                f"OpenVINO failed on {tokens.shape[0]} sequences of up to {tokens.shape[1]} tokens: {first_cause(error)}"
            ) from error
        return np.concatenate(pieces, axis=1)

    def _run(self, tokens: Tokens, mask: Tokens, begin: int) -> HiddenStates:
        end = begin + tokens.shape[1]
        values = {
            "input_ids": tokens,
            "attention_mask": mask[:, :end],
            "position_ids": np.broadcast_to(np.arange(begin, end), tokens.shape).copy(),
            "beam_idx": np.arange(len(tokens), dtype=np.int32),
        }
        self._request.infer({name: value for name, value in values.items() if name in self._inputs})
        return np.array(self._request.get_output_tensor(0).data, np.float32)


def _end_at_hidden_states(model: Any) -> int:
    """Replace the result `logits` by what its head multiplies; returns the vocabulary's size."""
    result = next((item for item in model.get_results() if _LOGITS in item.output(0).get_names()), None)
    if result is None:
        raise UnsupportedModel(f"this IR has no result named {_LOGITS!r}")
    product = head_product(result)
    shape = result.get_output_partial_shape(0)
    if len(shape) != 3 or shape[2].is_dynamic:
        raise UnsupportedModel(f"{_LOGITS!r} has the shape {shape}, not [sequences, tokens, vocabulary]")
    model.add_outputs([product.input_value(0)])
    model.remove_result(result)
    return int(shape[2].get_length())
