"""The numpy reference is transformers' network, and tells its inputs to whoever calibrates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from encoder_twins import pack, relative_error, sequences, transformers_answers, write_twin

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.export.encoders.calibrate import bert_shape, dequantized, input_ranges
from edgeport.runtimes.encoders.bert_reference import BertReference

Twins = Callable[..., Path]
CLOSE = 1e-5


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "distilbert"])
@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification", "ForTokenClassification"])
def test_states_and_logits_are_those_of_transformers(
    family: str, head: str, twin: Twins, tmp_path: Path
) -> None:
    folder = twin(family, head)
    source, encoder = pack(folder, "f32", tmp_path)
    ids = sequences(folder)
    states, logits = transformers_answers(folder, ids)
    reference = BertReference(dequantized(encoder.checkpoint), bert_shape(source.spec))
    assert relative_error(reference.encode(ids), states) < CLOSE
    if logits:
        assert relative_error(reference.logits(ids), logits) < CLOSE


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_other_activations(activation: str, tmp_path: Path) -> None:
    folder = write_twin("bert", tmp_path / "model", activation=activation)
    source, encoder = pack(folder, "f32", tmp_path / "checkpoint")
    ids = sequences(folder)
    reference = BertReference(dequantized(encoder.checkpoint), bert_shape(source.spec))
    assert relative_error(reference.encode(ids), transformers_answers(folder, ids)[0]) < CLOSE


def test_an_observer_sees_the_input_of_every_linear_layer(twin: Twins, tmp_path: Path) -> None:
    folder = twin("bert")
    source, encoder = pack(folder, "f32", tmp_path)
    ids = sequences(folder)
    ranges = input_ranges(source.spec, encoder.checkpoint, ids)
    linears = {item.name for item in source.spec.tensors() if item.role == "linear"}
    assert set(ranges) == linears
    # the states before layer 1 are the input of its queries
    states = BertReference(dequantized(encoder.checkpoint), bert_shape(source.spec))
    assert (
        ranges["encoder.layer.0.attention.self.query.weight"]
        == ranges["encoder.layer.0.attention.self.key.weight"]
    )
    low, high = ranges["encoder.layer.1.output.dense.weight"]
    assert low < 0 < high and low > -0.2  # GELU never falls below -0.17
    assert np.isfinite(states.encode(ids)[0]).all()


def test_what_cannot_be_encoded_is_refused(twin: Twins, tmp_path: Path) -> None:
    source, encoder = pack(twin("bert"), "f32", tmp_path)
    reference = BertReference(dequantized(encoder.checkpoint), bert_shape(source.spec))
    for wrong in ([], [source.spec.vocab_size]):
        with pytest.raises(UsageError):
            reference.encode([wrong])
    with pytest.raises(RuntimeFailure, match="context"):
        reference.encode([[1] * (source.spec.context_length + 1)])
    reference.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        reference.encode([[1]])
