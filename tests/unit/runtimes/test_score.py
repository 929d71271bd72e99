"""Scores of a text against transformers' own, in one piece and in windows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes.container import Container
from edgeport.runtimes.reference import open_session
from edgeport.runtimes.score import _windows, score_text, score_tokens, token_log_probabilities
from edgeport.runtimes.session import SessionOptions
from edgeport.runtimes.tokenizer import FileTokenizer, open_tokenizer

TEXT = "def area(self) -> float:\n    return 3.14159 * self.radius ** 2\n"
TOKENS = [int(token) for token in np.random.default_rng(5).integers(0, 512, 150)]


def expected(folder: Path, tokens: list[int]) -> np.ndarray:
    """ln p of tokens[1:] by transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, :-1].double()
    found = torch.log_softmax(logits, -1)[torch.arange(len(tokens) - 1), tokens[1:]]
    return found.numpy()


@pytest.mark.parametrize("model", ["tiny_llama_dir", "tiny_qwen2_dir"])
def test_scores_are_those_of_transformers(model: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(model)
    session, tokenizer = open_session(folder, SessionOptions()), FileTokenizer(folder)
    score = score_text(session, tokenizer, TEXT)
    tokens = tokenizer.encode(TEXT)
    wanted = expected(folder, tokens)
    np.testing.assert_allclose(score.log_probabilities, wanted, atol=2e-4)
    assert score.tokens == tuple(tokens[1:]) and score.windows == score.context_tokens == 1
    assert score.perplexity == pytest.approx(math.exp(-wanted.mean()), rel=1e-4)
    # llama's tokenizer opens with a token of its own, qwen's does not: there the first token is given and not scored
    given_bytes = 0 if model == "tiny_llama_dir" else len(tokenizer.decode(tokens[:1]).encode())
    assert score.text_bytes == len(TEXT.encode()) - given_bytes
    assert score.bits_per_byte == pytest.approx(-wanted.sum() / math.log(2) / score.text_bytes, rel=1e-4)


def test_windows_score_each_token_once_with_the_context_they_promise(tiny_qwen2_dir: Path) -> None:
    session = open_session(tiny_qwen2_dir, SessionOptions(context_length=64))
    score = score_tokens(session, TOKENS, stride=24)
    wanted = list(expected(tiny_qwen2_dir, TOKENS[:65]))
    for end in (89, 113, 137, 150):
        begin, fresh = end - 65, min(24, end - 137 if end == 150 else 24)
        wanted += list(expected(tiny_qwen2_dir, TOKENS[begin:end])[-fresh:])
    assert score.windows == 5 and score.tokens == tuple(TOKENS[1:])
    np.testing.assert_allclose(score.log_probabilities, wanted, atol=2e-4)


def test_a_stride_changes_nothing_where_the_text_fits(tiny_qwen2_dir: Path) -> None:
    session = open_session(tiny_qwen2_dir, SessionOptions())
    assert score_tokens(session, TOKENS, stride=10) == score_tokens(session, TOKENS)


def test_context_is_given_and_not_scored(tiny_qwen2_dir: Path) -> None:
    session = open_session(tiny_qwen2_dir, SessionOptions())
    whole, rest = score_tokens(session, TOKENS), score_tokens(session, TOKENS, context_tokens=101)
    assert rest.tokens == tuple(TOKENS[101:])
    np.testing.assert_allclose(rest.log_probabilities, whole.log_probabilities[100:], atol=1e-5)
    narrow = open_session(tiny_qwen2_dir, SessionOptions(context_length=40))
    assert len(score_tokens(narrow, TOKENS, context_tokens=101, stride=20).log_probabilities) == 49


def test_what_does_not_fit_is_an_error_with_the_cure(tiny_qwen2_dir: Path) -> None:
    session = open_session(tiny_qwen2_dir, SessionOptions(context_length=64))
    assert len(score_tokens(session, TOKENS[:65]).tokens) == 64  # the last token is not fed
    with pytest.raises(RuntimeFailure, match="66 tokens does not fit .* 64") as caught:
        score_tokens(session, TOKENS[:66])
    assert "stride" in str(caught.value.hint)


@pytest.mark.parametrize("stride", [0, -1, 65])
def test_an_impossible_stride_is_refused(tiny_qwen2_dir: Path, stride: int) -> None:
    session = open_session(tiny_qwen2_dir, SessionOptions(context_length=64))
    with pytest.raises(UsageError, match=f"stride is {stride}, it must be 1 to 64"):
        score_tokens(session, TOKENS, stride=stride)


def test_nothing_to_score_is_refused(tiny_qwen2_dir: Path) -> None:
    session = open_session(tiny_qwen2_dir, SessionOptions())
    for tokens, context_tokens in (([], 1), ([3], 1), ([3, 4], 2), ([3, 4], 0)):
        with pytest.raises(UsageError, match="nothing to score"):
            score_tokens(session, tokens, context_tokens=context_tokens)
    with pytest.raises(UsageError, match="empty text"):
        score_text(session, FileTokenizer(tiny_qwen2_dir), "")


def test_bytes_of_a_broken_first_character_are_not_guessed(tiny_qwen2_dir: Path) -> None:
    session, tokenizer = open_session(tiny_qwen2_dir, SessionOptions()), FileTokenizer(tiny_qwen2_dir)
    assert "�" in tokenizer.decode(tokenizer.encode("語言")[:1])
    score = score_text(session, tokenizer, "語言")
    assert score.text_bytes is None and score.bits_per_byte is None


def test_a_files_own_vocabulary_scores_the_same(packed_dir: Path) -> None:
    session = open_session(packed_dir / "safetensors", SessionOptions())
    file = next((packed_dir / "gguf").glob("*.gguf"))
    own = score_text(session, open_tokenizer(Container("gguf", file)), TEXT)
    assert own == score_text(session, FileTokenizer(packed_dir / "safetensors"), TEXT)


def test_log_probabilities_survive_large_logits() -> None:
    logits = np.array([[1e4, 0.0, -1e4]], np.float32)
    assert token_log_probabilities(logits, [0])[0] == 0.0
    assert token_log_probabilities(logits, [2])[0] == -2e4


@given(st.integers(1, 400), st.integers(1, 60), st.data())
def test_windows_cover_every_position_once(count: int, length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, length))
    windows = list(_windows(count, length, stride))
    assert [place for _, fresh, end in windows for place in range(fresh, end)] == list(range(count))
    for begin, fresh, end in windows:
        assert 0 <= begin <= fresh < end <= begin + length
        assert begin == 0 or fresh - begin >= length - stride
