"""An exported encoder in llama.cpp (architecture bert): states of every token with pooling off, a classifier's logits with
pooling `rank`.

Several sequences share a batch under ids of their own, so nothing is padded. An encoder sees its whole sequence at once:
llama.cpp asserts that a batch fits one pass (n_ubatch), so a batch never has more tokens than the context.
Spec: llama.h (llama_encode, pooling_type, llama_get_embeddings, llama_get_embeddings_seq).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from edgeport.errors import RuntimeFailure, UnsupportedModel
from edgeport.runtimes import llama_library
from edgeport.runtimes.encoder import HiddenStates, SequenceLimits, encoder_threads
from edgeport.runtimes.gguf import write_float32
from edgeport.runtimes.session import SessionOptions
from edgeport.runtimes.window import choose_context_length

_SEQUENCES = 16
"""Most sequences of one batch."""
_TYPE_F32, _FLASH_ATTENTION_OFF = 0, 0


def open_encoder(path: Path, options: SessionOptions) -> GgufBertEncoder:
    """`path` is the .gguf file or a folder with one. `exact` as in edgeport.runtimes.gguf: through a float32 copy."""
    file = llama_library.find_file(path)
    if not options.exact:
        return GgufBertEncoder(llama_library.load_model(file), options)
    with tempfile.TemporaryDirectory(prefix="edgeport-gguf-") as folder:
        exact_file = Path(folder) / "float32.gguf"
        write_float32(file, exact_file)
        return GgufBertEncoder(llama_library.load_model(exact_file), options)


class GgufBertEncoder:
    """See edgeport.runtimes.encoder.Encoder and edgeport.runtimes.classification.Classifier. Owns the model."""

    def __init__(self, model: Any, options: SessionOptions) -> None:
        self._model, self._options = model, options
        self._contexts: dict[int, Any] = {}
        self._batch: Any = None
        try:
            length = choose_context_length(options.context_length, native.llama_model_n_ctx_train(model))
            vocab_size = native.llama_vocab_n_tokens(native.llama_model_get_vocab(model))
            self._limits = SequenceLimits(length, vocab_size)
            self.hidden_size = int(native.llama_model_n_embd(model))
            self._labels = _label_count(model)
            self._batch = native.llama_batch_init(length, 0, 1)
        except BaseException:
            self._free()
            raise

    @property
    def vocab_size(self) -> int:
        return self._limits.vocab_size

    @property
    def context_length(self) -> int:
        return self._limits.context_length

    def encode(self, sequences: Sequence[Sequence[int]]) -> list[HiddenStates]:
        self._limits.admit(sequences)
        context = self._context(native.LLAMA_POOLING_TYPE_NONE)
        states: list[HiddenStates] = []
        for group in self._groups(sequences):
            count = self._run(context, group)
            pointer = native.llama_get_embeddings(context)
            if not pointer:
                raise RuntimeFailure("llama.cpp gives no hidden states for this model")
            rows = np.ctypeslib.as_array(pointer, shape=(count, self.hidden_size)).astype(np.float32)
            borders = np.cumsum([len(sequence) for sequence in group])[:-1]
            states += [np.ascontiguousarray(part) for part in np.split(rows, borders)]
        return states

    def logits(self, sequences: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        """[labels] of each sequence."""
        if not self._labels:
            raise UnsupportedModel("this GGUF file has no classifier")
        self._limits.admit(sequences)
        context = self._context(native.LLAMA_POOLING_TYPE_RANK)
        found: list[npt.NDArray[np.float32]] = []
        for group in self._groups(sequences):
            self._run(context, group)
            for number in range(len(group)):
                pointer = native.llama_get_embeddings_seq(context, number)
                if not pointer:
                    raise RuntimeFailure("llama.cpp gives no logits for this model")
                found.append(np.ctypeslib.as_array(pointer, shape=(self._labels,)).astype(np.float32))
        return found

    def close(self) -> None:
        if self._limits.close():
            self._free()

    def _groups(self, sequences: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
        """Neighbours that fit one batch together."""
        group: list[Sequence[int]] = []
        for sequence in sequences:
            full = len(group) == _SEQUENCES
            if group and (full or sum(map(len, group)) + len(sequence) > self.context_length):
                yield group
                group = []
            group.append(sequence)
        if group:
            yield group

    def _run(self, context: Any, group: Sequence[Sequence[int]]) -> int:
        """Compute the group in one pass; returns its tokens."""
        batch, index = self._batch, 0
        for number, sequence in enumerate(group):
            for position, token in enumerate(sequence):
                batch.token[index] = token
                batch.pos[index] = position
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = number
                batch.logits[index] = True
                index += 1
        batch.n_tokens = index
        status = native.llama_encode(context, batch)
        if status != 0:
            raise RuntimeFailure(
                f"llama_encode failed with {status} on {index} tokens: {llama_library.last_cause()}"
            )
        return index

    def _context(self, pooling: int) -> Any:
        """One per pooling, made when it is first asked for; the weights are shared."""
        if pooling not in self._contexts:
            self._contexts[pooling] = _new_context(self._model, self.context_length, pooling, self._options)
        return self._contexts[pooling]

    def _free(self) -> None:
        if self._batch is not None:
            native.llama_batch_free(self._batch)
        for context in self._contexts.values():
            native.llama_free(context)
        if self._model is not None:
            native.llama_model_free(self._model)
        self._model = self._batch = None
        self._contexts = {}


def _label_count(model: Any) -> int:
    """llama.cpp says 1 where the file names no labels."""
    count = int(native.llama_model_n_cls_out(model))
    return count if native.llama_model_cls_label(model, 0) else 0


def _new_context(model: Any, length: int, pooling: int, options: SessionOptions) -> Any:
    parameters = native.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = parameters.n_outputs_max = length
    parameters.n_seq_max = _SEQUENCES
    parameters.kv_unified = True  # one long sequence or several short ones
    parameters.embeddings = True
    parameters.pooling_type = pooling
    parameters.n_threads = parameters.n_threads_batch = encoder_threads(options)
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
