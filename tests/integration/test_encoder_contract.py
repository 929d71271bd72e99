"""What every encoder must do, run against every engine in the table, in its exact mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.errors import EdgeportError, RuntimeFailure, UnsupportedModel, UsageError
from edgeport.runtimes.encoder import ENCODERS, Encoder, encoder_threads, open_encoder
from edgeport.runtimes.engine_settings import EngineSettings
from edgeport.runtimes.engines import ENGINES, open_session, unavailable_because
from edgeport.runtimes.safetensors_reader import SafetensorsReader
from edgeport.runtimes.session import SessionOptions

CONTEXT = 128
CLOSE = {"atol": 1e-4, "rtol": 0}
LENGTHS = (5, 120, 1, 17, 30, 30, 64, 128, 3)
SEQUENCES = [
    [int(token) for token in np.random.default_rng(seed).integers(0, 512, length)]
    for seed, length in enumerate(LENGTHS)
]
OPTIONS = SessionOptions(threads=1, context_length=CONTEXT, exact=True)
MODELS = {"tiny_llama_dir": "LlamaModel", "tiny_qwen2_dir": "Qwen2Model"}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def containers(model: str, packed: Callable[[str], Path]) -> Path:
    return packed(model)


@pytest.fixture(scope="module")
def expected(model: str, containers: Path, request: pytest.FixtureRequest) -> list[np.ndarray]:
    """transformers' last_hidden_state, sequence by sequence, with the weights of the containers."""
    import torch
    import transformers

    kind: Any = getattr(transformers, MODELS[model])
    network = kind.from_pretrained(request.getfixturevalue(model), dtype=torch.float32)
    weights = SafetensorsReader(containers / "safetensors")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(weights.read(f"model.{name}").copy()))
        return [network(torch.tensor([tokens])).last_hidden_state[0].numpy() for tokens in SEQUENCES]


@pytest.fixture(params=list(ENCODERS))
def engine(request: pytest.FixtureRequest) -> str:
    reason = unavailable_because(request.param)
    if reason is not None:
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture
def encoder(containers: Path, engine: str) -> Iterator[Encoder]:
    opened = open_encoder(engine, containers / engine, OPTIONS)
    yield opened
    opened.close()


def test_every_engine_has_one() -> None:
    assert set(ENCODERS) == set(ENGINES)


def test_hidden_states_are_those_of_transformers(encoder: Encoder, expected: list[np.ndarray]) -> None:
    assert (encoder.hidden_size, encoder.vocab_size, encoder.context_length) == (64, 512, CONTEXT)
    found = encoder.encode(SEQUENCES)
    assert [states.shape for states in found] == [(length, 64) for length in LENGTHS]
    for states, wanted in zip(found, expected, strict=True):
        assert states.dtype == np.float32
        np.testing.assert_allclose(states, wanted, **CLOSE)


def test_each_sequence_is_its_own(encoder: Encoder, expected: list[np.ndarray]) -> None:
    """Alone, again and in another order: nothing is kept, and no company matters."""
    for index in (1, 4, 1):
        np.testing.assert_allclose(encoder.encode([SEQUENCES[index]])[0], expected[index], **CLOSE)
    backwards = encoder.encode(SEQUENCES[::-1])[::-1]
    for states, wanted in zip(backwards, expected, strict=True):
        np.testing.assert_allclose(states, wanted, **CLOSE)
    assert encoder.encode([]) == []


PIECES = {
    "gguf": "edgeport.runtimes.encoders.gguf._MOST_TOKENS",
    "onnx": "edgeport.runtimes.encoders.onnx.BATCH_TOKENS",
    "openvino": "edgeport.runtimes.encoders.openvino.BATCH_TOKENS",
    "safetensors": "edgeport.runtimes.reference._CHUNK_TOKENS",
}


def test_a_long_sequence_goes_through_in_pieces(
    containers: Path, engine: str, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PIECES[engine], 16)
    encoder = open_encoder(engine, containers / engine, OPTIONS)
    for index in (1, 7):
        np.testing.assert_allclose(encoder.encode([SEQUENCES[index]])[0], expected[index], **CLOSE)
    encoder.close()


def test_more_sequences_than_fit_one_batch(encoder: Encoder, expected: list[np.ndarray]) -> None:
    found = encoder.encode(SEQUENCES[3:5] * 20)
    for index, states in enumerate(found):
        np.testing.assert_allclose(states, expected[3 + index % 2], **CLOSE)


def test_states_are_the_callers(encoder: Encoder) -> None:
    first = encoder.encode(SEQUENCES[:4])
    kept = [states.copy() for states in first]
    encoder.encode(SEQUENCES[4:])
    for states, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(states, copy)


@pytest.mark.parametrize("bad", [[], [512], [-1], [3, 100_000]])
def test_what_cannot_be_encoded_is_refused_by_its_number(encoder: Encoder, bad: list[int]) -> None:
    with pytest.raises(UsageError, match="^sequence 1: "):
        encoder.encode([[1, 2], bad])
    with pytest.raises(UsageError, match="^(a sequence|token)"):
        encoder.encode([bad])


def test_a_sequence_over_the_context_is_refused(encoder: Encoder) -> None:
    with pytest.raises(RuntimeFailure, match=f"{CONTEXT + 1} tokens do not fit .* {CONTEXT}"):
        encoder.encode([[1] * (CONTEXT + 1)])


def test_a_closed_encoder_says_so(encoder: Encoder) -> None:
    encoder.close()
    encoder.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        encoder.encode([[1]])


def test_shipped_arithmetic_stays_near(containers: Path, engine: str, expected: list[np.ndarray]) -> None:
    """Other rounding, the same direction: what the cosine of two texts is made of."""
    encoder = open_encoder(engine, containers / engine, SessionOptions(threads=1, context_length=CONTEXT))
    for states, wanted in zip(encoder.encode(SEQUENCES), expected, strict=True):
        cosine = float(states[-1] @ wanted[-1] / np.linalg.norm(states[-1]) / np.linalg.norm(wanted[-1]))
        assert cosine > 0.99
    encoder.close()


def test_threads_are_those_for_prompts() -> None:
    tuned = EngineSettings(threads=3, prompt_threads=2)
    assert encoder_threads(SessionOptions(settings=tuned)) == 2
    assert encoder_threads(SessionOptions(settings=EngineSettings(threads=3))) == 3
    assert encoder_threads(SessionOptions(threads=1, settings=tuned)) == 1


def test_an_encoder_leaves_an_open_session_alone(encoder: Encoder, containers: Path, engine: str) -> None:
    session = open_session(engine, containers / engine, OPTIONS)
    session.feed(SEQUENCES[4])
    encoder.encode(SEQUENCES[:3])
    logits = session.feed([7])
    session.rewind(0)
    np.testing.assert_allclose(session.feed([*SEQUENCES[4], 7]), logits, **CLOSE)
    session.close()


def test_a_missing_file_and_a_foreign_format_are_errors(engine: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeportError, match=str(tmp_path)):
        open_encoder(engine, tmp_path, SessionOptions())
    with pytest.raises(UsageError, match="no encoder for the format 'pickle'"):
        open_encoder("pickle", tmp_path, SessionOptions())


def test_an_ir_without_a_head_is_refused(tmp_path: Path) -> None:
    ops = pytest.importorskip("openvino.opset13")
    import openvino

    tokens = ops.parameter([-1, -1], openvino.Type.i64, name="input_ids")
    result = ops.result(ops.abs(tokens))
    result.output(0).get_tensor().set_names({"logits"})
    openvino.save_model(openvino.Model([result], [tokens], "m"), str(tmp_path / "openvino_model.xml"))
    with pytest.raises(UnsupportedModel, match="no output head behind 'logits'.* comes from Abs"):
        open_encoder("openvino", tmp_path, SessionOptions())
