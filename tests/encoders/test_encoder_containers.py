"""Every container of every family in its own engine: float ones equal transformers, quantized ones the dequantized weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from encoder_twins import (
    HIDDEN,
    POSITIONS,
    pack,
    recipe_named,
    relative_error,
    sequences,
    transformers_answers,
    write,
    write_twin,
)

from edgeport.errors import EdgeportError, RuntimeFailure, UnsupportedModel, UsageError
from edgeport.export.encoders.agreement import compare_states, same_labels
from edgeport.export.encoders.calibrate import bert_shape, dequantized
from edgeport.export.encoders.packing import ENCODER_FORMATS, get_encoder_format
from edgeport.export.encoders.source import open_encoder_source
from edgeport.runtimes.classification import Classifier
from edgeport.runtimes.encoder_container import ADAPTERS, open_encoder_container
from edgeport.runtimes.encoders.bert_reference import BertReference
from edgeport.runtimes.engines import unavailable_because
from edgeport.runtimes.pooling import POOLINGS, pool
from edgeport.runtimes.session import SessionOptions

Twins = Callable[..., Path]
FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert")
EXACT = SessionOptions(threads=1, exact=True)
FLOAT_ERROR = {"onnx": 1e-5, "openvino": 1e-4, "gguf": 1e-3}
"""llama.cpp computes GELU by its tanh approximation, from a float16 table."""


@pytest.fixture(params=list(ENCODER_FORMATS))
def engine(request: pytest.FixtureRequest) -> str:
    reason = unavailable_because(request.param)
    if reason is not None:
        pytest.skip(reason)
    return str(request.param)


def opened(engine: str, folder: Path, options: SessionOptions = EXACT) -> Classifier:
    return open_encoder_container(engine, folder, options)


def test_every_format_has_an_adapter() -> None:
    assert set(ENCODER_FORMATS) == set(ADAPTERS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_float_container_is_transformers_model(
    family: str, engine: str, twin: Twins, tmp_path: Path
) -> None:
    folder = twin(family)
    _, encoder = pack(folder, "f32", tmp_path / "checkpoint")
    ids = sequences(folder)
    want, _ = transformers_answers(folder, ids)
    model = opened(engine, write(encoder, engine, tmp_path / engine))
    try:
        assert (model.hidden_size, model.context_length) == (HIDDEN, POSITIONS)
        got = model.encode(ids)
        assert relative_error(got, want) <= FLOAT_ERROR[engine]
        for pooling in POOLINGS:
            pooled = [[pool(states, pooling) for states in side] for side in (got, want)]
            assert relative_error(*pooled) <= FLOAT_ERROR[engine]
        assert not np.shares_memory(got[0], model.encode(ids)[0])
    finally:
        model.close()


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_other_activations(activation: str, engine: str, tmp_path: Path) -> None:
    folder = write_twin("bert", tmp_path / "model", activation=activation)
    source, encoder = pack(folder, "f32", tmp_path / "checkpoint")
    if (engine, activation) == ("gguf", "relu"):
        reasons = get_encoder_format(engine).reasons_against(source.spec, encoder.recipe, folder)
        assert any("relu" in reason for reason in reasons)
        return
    ids = sequences(folder)
    model = opened(engine, write(encoder, engine, tmp_path / engine))
    assert relative_error(model.encode(ids), transformers_answers(folder, ids)[0]) <= FLOAT_ERROR[engine]
    model.close()


@pytest.mark.parametrize("recipe", ["bf16", "f16", "int8", "int4"])
def test_a_container_holds_the_checkpoints_weights(
    recipe: str, engine: str, twin: Twins, tmp_path: Path
) -> None:
    """In exact arithmetic it is the reference over the dequantized weights; as shipped it is near the float model."""
    folder = twin("bert")
    source, encoder = pack(folder, recipe, tmp_path / "checkpoint")
    ids = sequences(folder)
    reference = BertReference(dequantized(encoder.checkpoint), bert_shape(source.spec))
    container = write(encoder, engine, tmp_path / engine)
    exact = opened(engine, container)
    assert relative_error(exact.encode(ids), reference.encode(ids)) <= FLOAT_ERROR[engine]
    exact.close()
    shipped = opened(engine, container, SessionOptions(threads=1))
    found = compare_states(shipped.encode(ids), transformers_answers(folder, ids)[0], "mean")
    shipped.close()
    assert found.mean_token_cosine >= recipe_named(recipe).threshold


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family: str, engine: str, twin: Twins, tmp_path: Path) -> None:
    folder = twin(family)
    _, encoder = pack(folder, "f32", tmp_path / "checkpoint")
    model = opened(engine, write(encoder, engine, tmp_path / engine))
    vocab_size = model.vocab_size
    generator = np.random.default_rng(3)
    ids = [generator.integers(5, vocab_size, length).tolist() for length in (3, POSITIONS, 1, 40, 17, 2, 90)]
    together, alone = model.encode(ids), [model.encode([tokens])[0] for tokens in ids]
    assert [len(states) for states in together] == [len(tokens) for tokens in ids]
    # sums in another order fall on other steps of llama.cpp's table
    for left, right in zip(together, alone, strict=True):
        assert relative_error([left], [right]) <= FLOAT_ERROR[engine]
    assert model.encode([]) == []
    model.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_classifiers_of_sequences(family: str, engine: str, twin: Twins, tmp_path: Path) -> None:
    folder = twin(family, "ForSequenceClassification")
    source, encoder = pack(folder, "f32", tmp_path / "checkpoint")
    if (family, engine) == ("distilbert", "gguf"):
        reasons = get_encoder_format(engine).reasons_against(source.spec, encoder.recipe, folder)
        assert any("relu" in reason for reason in reasons)
        return
    ids = sequences(folder)
    states, logits = transformers_answers(folder, ids)
    model = opened(engine, write(encoder, engine, tmp_path / engine))
    got = model.logits(ids)
    assert [row.shape for row in got] == [(3,)] * len(ids)
    assert relative_error(got, logits) <= FLOAT_ERROR[engine]
    assert relative_error(model.encode(ids), states) <= FLOAT_ERROR[engine]
    assert same_labels(got, logits) == 1.0
    model.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_classifiers_of_tokens(family: str, engine: str, twin: Twins, tmp_path: Path) -> None:
    folder = twin(family, "ForTokenClassification")
    source, encoder = pack(folder, "f32", tmp_path / "checkpoint")
    if engine == "gguf":
        reasons = get_encoder_format(engine).reasons_against(source.spec, encoder.recipe, folder)
        assert any("classifier of tokens" in reason for reason in reasons)
        return
    ids = sequences(folder)
    _, logits = transformers_answers(folder, ids)
    model = opened(engine, write(encoder, engine, tmp_path / engine))
    got = model.logits(ids)
    assert [row.shape for row in got] == [(len(tokens), 3) for tokens in ids]
    assert relative_error(got, logits) <= FLOAT_ERROR[engine]
    model.close()


def test_an_int8_classifier_gives_the_labels_of_the_float_one(
    engine: str, twin: Twins, tmp_path: Path
) -> None:
    folder = twin("bert", "ForSequenceClassification")
    source, encoder = pack(folder, "int8", tmp_path / "checkpoint")
    ids = sequences(folder)
    reference = BertReference(dequantized(encoder.checkpoint), bert_shape(source.spec))
    model = opened(engine, write(encoder, engine, tmp_path / engine))
    assert relative_error(model.logits(ids), reference.logits(ids)) <= FLOAT_ERROR[engine]
    model.close()


def test_what_an_encoder_refuses(engine: str, twin: Twins, tmp_path: Path) -> None:
    _, encoder = pack(twin("bert"), "f32", tmp_path / "checkpoint")
    folder = write(encoder, engine, tmp_path / engine)
    model = opened(engine, folder)
    for wrong in ([], [model.vocab_size], [-1]):
        with pytest.raises(UsageError):
            model.encode([[5], wrong])
    with pytest.raises(RuntimeFailure, match=f"context of {POSITIONS}"):
        model.encode([[5] * (POSITIONS + 1)])
    with pytest.raises(UnsupportedModel):
        model.logits([[5]])
    model.close()
    model.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        model.encode([[5]])
    with pytest.raises(UsageError, match="context_length"):
        opened(engine, folder, SessionOptions(context_length=POSITIONS + 1))
    shorter = opened(engine, folder, SessionOptions(context_length=7))
    assert shorter.context_length == 7
    shorter.close()


def test_a_damaged_container_is_an_error(engine: str, twin: Twins, tmp_path: Path) -> None:
    _, encoder = pack(twin("bert"), "f32", tmp_path / "checkpoint")
    folder = write(encoder, engine, tmp_path / engine)
    largest = max((path for path in folder.iterdir() if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    if engine == "gguf":
        return  # llama.cpp ends the process on some cut files: `load` opens unknown ones in a child
    with pytest.raises(EdgeportError):
        opened(engine, folder).encode([[5, 6]])


def test_planted_fault_wrong_positions_are_seen(twin: Twins, tmp_path: Path) -> None:
    """RoBERTa with BERT's positions: the float comparison has to notice."""
    folder = twin("roberta")
    _, encoder = pack(folder, "f32", tmp_path / "checkpoint")
    ids = sequences(folder)
    states = transformers_answers(folder, ids)[0]
    source = open_encoder_source(str(folder))
    weights = dequantized(encoder.checkpoint)

    def shifted(name: str) -> np.ndarray:
        whole = (
            source.weights.tensor(source.names[name]) if name.endswith("position_embeddings.weight") else None
        )
        return weights(name) if whole is None else whole

    reference = BertReference(shifted, bert_shape(source.spec))
    assert relative_error(reference.encode(ids), states) > 0.01
