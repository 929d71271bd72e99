"""Pooling by hand, and texts to vectors over a real encoder: order, lengths, what is refused and what is reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes.embedding import EmbeddingOptions, _groups, embed_texts
from edgeport.runtimes.encoder import Encoder, open_encoder
from edgeport.runtimes.encoders.batches import padded, plan_batches
from edgeport.runtimes.pooling import POOLINGS, normalize, pool
from edgeport.runtimes.session import SessionOptions
from edgeport.runtimes.tokenizer import FileTokenizer

STATES = np.array([[1.0, -2.0], [3.0, 4.0], [-1.0, 1.0]], np.float32)
TEXTS = [
    "def area(self) -> float:",
    "x",
    "import os\nimport sys\n" * 3,
    "raise NotImplementedError",
    "Größe 😀",
]


@pytest.fixture(scope="module")
def encoder(tiny_llama_dir: Path) -> Encoder:
    return open_encoder("safetensors", tiny_llama_dir, SessionOptions(context_length=64))


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_dir: Path) -> FileTokenizer:
    return FileTokenizer(tiny_llama_dir)


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [1, 1]), ("last", [-1, 1]), ("cls", [1, -2]), ("max", [3, 4])]
)
def test_pooling(pooling: str, expected: list[float]) -> None:
    np.testing.assert_array_equal(pool(STATES, pooling), np.array(expected, np.float32))


def test_pooling_of_nothing_and_by_another_name_is_refused() -> None:
    with pytest.raises(UsageError, match="pooling is 'sum'"):
        pool(STATES, "sum")
    with pytest.raises(UsageError, match="pooling is 'sum'"):
        EmbeddingOptions(pooling="sum")
    with pytest.raises(UsageError, match="no vector"):
        pool(STATES[:0], "mean")


def test_normalizing_gives_unit_length_and_leaves_zeros() -> None:
    vectors = normalize(np.array([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]], np.float32))
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_are_those_of_transformers(
    encoder: Encoder, tokenizer: FileTokenizer, tiny_llama_dir: Path, pooling: str
) -> None:
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    found = embed_texts(encoder, tokenizer, TEXTS, EmbeddingOptions(pooling))
    for text, vector in zip(TEXTS, found.vectors, strict=True):
        with torch.no_grad():
            states = model(torch.tensor([tokenizer.encode(text)])).last_hidden_state[0]
        wanted = {"mean": states.mean(0), "max": states.amax(0), "cls": states[0], "last": states[-1]}[
            pooling
        ]
        wanted = torch.nn.functional.normalize(wanted, dim=0)
        np.testing.assert_allclose(vector, wanted.numpy(), atol=2e-5)
    assert found.token_counts == tuple(len(tokenizer.encode(text)) for text in TEXTS)


def test_a_text_has_the_same_vector_in_any_company(encoder: Encoder, tokenizer: FileTokenizer) -> None:
    together = embed_texts(encoder, tokenizer, TEXTS * 8, EmbeddingOptions(normalize=False)).vectors
    assert together.shape == (40, 64) and together.dtype == np.float32
    for index, text in enumerate(TEXTS):
        alone = embed_texts(encoder, tokenizer, [text], EmbeddingOptions(normalize=False)).vectors[0]
        np.testing.assert_allclose(together[index::5], np.tile(alone, (8, 1)), atol=1e-5)


def test_a_long_text_is_an_error_or_cut_and_reported(encoder: Encoder, tokenizer: FileTokenizer) -> None:
    long = "for index, value in enumerate(values):\n" * 20
    with pytest.raises(RuntimeFailure, match=r"text 1 has \d+ tokens, the encoder's context is 64") as caught:
        embed_texts(encoder, tokenizer, ["x", long])
    assert "truncate=True" in str(caught.value.hint)
    found = embed_texts(encoder, tokenizer, ["x", long], EmbeddingOptions(truncate=True))
    assert found.truncated == (1,) and found.token_counts[1] > 64
    kept = tokenizer.encode(long)[:64]
    wanted = normalize(encoder.encode([kept])[0][-1])
    np.testing.assert_allclose(found.vectors[1], wanted, atol=1e-6)


class WithEnd:
    """A tokenizer that closes a text with a token, as embedding models on decoders have it."""

    def __init__(self, tokenizer: FileTokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens) + [2] * add_special_tokens

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)


def test_a_cut_text_keeps_its_closing_token(encoder: Encoder, tokenizer: FileTokenizer) -> None:
    long = "value " * 200
    found = embed_texts(encoder, WithEnd(tokenizer), [long], EmbeddingOptions(truncate=True))  # type: ignore[arg-type]
    kept = [*tokenizer.encode(long)[:63], 2]
    np.testing.assert_allclose(found.vectors[0], normalize(encoder.encode([kept])[0][-1]), atol=1e-6)


def test_work_can_be_stopped_between_texts(encoder: Encoder, tokenizer: FileTokenizer) -> None:
    calls = []

    def stop_at_the_third() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        embed_texts(encoder, tokenizer, TEXTS * 100, before_each=stop_at_the_third)
    assert len(calls) == 3


@given(st.lists(st.integers(1, 1500), max_size=120))
def test_groups_are_neighbours_and_bounded(lengths: list[int]) -> None:
    groups = list(_groups(lengths))
    assert [index for group in groups for index in group] == list(range(len(lengths)))
    for group in groups:
        assert 1 <= len(group) <= 32 and (sum(lengths[index] for index in group) <= 1024 or len(group) == 1)


def test_no_texts_are_no_vectors_and_an_empty_text_is_named(
    encoder: Encoder, tokenizer: FileTokenizer, tiny_qwen2_dir: Path
) -> None:
    assert embed_texts(encoder, tokenizer, []).vectors.shape == (0, 64)
    with pytest.raises(UsageError, match="list of texts"):
        embed_texts(encoder, tokenizer, "one text")
    without_opening = FileTokenizer(tiny_qwen2_dir)
    with pytest.raises(UsageError, match="text 1 is empty"):
        embed_texts(encoder, without_opening, ["x", ""])


def test_batches_hold_every_sequence_once_and_stay_under_the_limit() -> None:
    lengths = [int(length) for length in np.random.default_rng(0).integers(1, 90, 200)] + [300]
    batches = plan_batches(lengths, 256)
    assert sorted(index for batch in batches for index in batch) == list(range(201))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) * longest <= 256 or len(batch) == 1
    assert len(batches) < 60, "short ones share a run"
    tokens, mask = padded([[5, 6, 7], [8]])
    assert tokens.tolist() == [[5, 6, 7], [8, 0, 0]] and mask.tolist() == [[1, 1, 1], [1, 0, 0]]
