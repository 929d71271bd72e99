"""The generate loop over a session that writes what a script says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes.generate import GenerationOptions, Token, generate
from edgeport.runtimes.sampling import Sampling
from edgeport.runtimes.tokenizer import Tokenizer

VOCAB = 257


class Scripted:
    """Its likeliest next token is the one the script has at that position; `fed` records what it was given."""

    def __init__(self, script: Sequence[int], context_length: int = 64) -> None:
        self.script, self.context_length, self.vocab_size = list(script), context_length, VOCAB
        self.fed: list[int] = []
        self.prompt_tokens: int | None = None

    @property
    def position(self) -> int:
        return len(self.fed)

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> np.ndarray:
        assert self.position + len(tokens) <= self.context_length
        self.fed.extend(tokens)
        self.prompt_tokens = self.prompt_tokens or len(tokens)
        logits = np.full((1, VOCAB), 0.5, np.float32)
        logits[0, self.script[min(self.position - self.prompt_tokens, len(self.script) - 1)]] = 5
        return logits

    def rewind(self, position: int) -> None:
        del self.fed[position:]

    def close(self) -> None:
        pass


def run(session: Scripted, tokenizer: Tokenizer, **options: object) -> list[Token]:
    return list(generate(session, tokenizer, [1, 2, 3], GenerationOptions(**options)))  # type: ignore[arg-type]


def text_of(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


def test_it_streams_until_the_stop_token(byte_tokenizer: Tokenizer) -> None:
    session = Scripted([*"grün".encode(), 256])
    tokens = run(session, byte_tokenizer)
    assert text_of(tokens) == "grün"
    assert [token.finish_reason for token in tokens] == [None] * 5 + ["stop"]
    assert session.fed == [1, 2, 3, *"grün".encode()], "the stop token is not fed"


def test_stop_tokens_can_be_ignored(byte_tokenizer: Tokenizer) -> None:
    tokens = run(Scripted([256]), byte_tokenizer, ignore_stop_tokens=True, max_tokens=7)
    assert [token.id for token in tokens] == [256] * 7 and tokens[-1].finish_reason == "length"


def test_max_tokens_flushes_what_waited(byte_tokenizer: Tokenizer) -> None:
    tokens = run(Scripted(list("ab😀".encode())), byte_tokenizer, max_tokens=4)
    assert text_of(tokens) == "ab\ufffd" and tokens[-1].finish_reason == "length"


def test_a_stop_string_over_token_borders_ends_the_text_before_it(byte_tokenizer: Tokenizer) -> None:
    session = Scripted(list(b"one\n\ntwo"))
    tokens = run(session, byte_tokenizer, stop=("\n\n",), max_tokens=30)
    assert text_of(tokens) == "one" and tokens[-1].finish_reason == "stop" and len(tokens) == 5


def test_the_context_can_be_filled_to_the_last_place(byte_tokenizer: Tokenizer) -> None:
    session = Scripted(list(b"x" * 99), context_length=10)
    tokens = run(session, byte_tokenizer, max_tokens=8)
    assert len(tokens) == 8 and session.position == 10


def test_what_does_not_fit_is_an_error_before_any_work(byte_tokenizer: Tokenizer) -> None:
    session = Scripted([1], context_length=10)
    with pytest.raises(
        RuntimeFailure, match="prompt of 3 tokens and 9 new ones need a context of 11, this session has 10"
    ):
        generate(session, byte_tokenizer, [1, 2, 3], GenerationOptions(max_tokens=9))
    with pytest.raises(RuntimeFailure, match="prompt of 12 tokens"):
        generate(session, byte_tokenizer, [1] * 12, GenerationOptions())
    assert session.fed == []


def test_without_max_tokens_it_ends_where_the_context_does(byte_tokenizer: Tokenizer) -> None:
    tokens = run(Scripted(list(b"x" * 99), context_length=10), byte_tokenizer)
    assert len(tokens) == 8 and tokens[-1].finish_reason == "context", "not the caller's wish"


def test_what_the_session_holds_is_not_computed_again(byte_tokenizer: Tokenizer) -> None:
    session = Scripted(list(b"abc"))
    session.fed, session.prompt_tokens = [1, 2], 3
    assert text_of(run(session, byte_tokenizer, max_tokens=3)) == "abc"
    assert session.fed == [1, 2, 3, *b"ab"]


def test_a_session_beyond_the_prompt_is_refused(byte_tokenizer: Tokenizer) -> None:
    session = Scripted([1])
    with pytest.raises(UsageError, match="the prompt is empty"):
        generate(session, byte_tokenizer, [], GenerationOptions())
    session.fed = [1, 2, 3]
    with pytest.raises(UsageError, match="at position 3, in a prompt of 3 tokens"):
        generate(session, byte_tokenizer, [1, 2, 3], GenerationOptions())


def test_closing_the_stream_feeds_no_further_token(byte_tokenizer: Tokenizer) -> None:
    session = Scripted(list(b"abcdef"))
    stream = generate(session, byte_tokenizer, [1, 2, 3], GenerationOptions())
    assert next(stream).text == "a"
    stream.close()  # type: ignore[attr-defined]
    assert session.fed == [1, 2, 3]


def test_log_probabilities_are_the_engines(byte_tokenizer: Tokenizer) -> None:
    tokens = run(Scripted([65]), byte_tokenizer, logprobs=True, max_tokens=1)
    assert tokens[0].logprob == pytest.approx(5 - np.log(np.exp(5) + (VOCAB - 1) * np.exp(0.5)), abs=1e-5)
    assert run(Scripted([65]), byte_tokenizer, max_tokens=1)[0].logprob is None


def test_the_repetition_penalty_sees_prompt_and_text(byte_tokenizer: Tokenizer) -> None:
    tokens = run(Scripted([65]), byte_tokenizer, max_tokens=2, sampling=Sampling(repetition_penalty=1e6))
    assert tokens[0].id == 65 and tokens[1].id != 65


def test_a_seed_repeats_a_text(byte_tokenizer: Tokenizer) -> None:
    def ids(seed: int) -> list[int]:
        sampling = Sampling(temperature=3.0, seed=seed)
        return [token.id for token in run(Scripted([65]), byte_tokenizer, max_tokens=20, sampling=sampling)]

    assert ids(1) == ids(1) != ids(2)


def test_zero_tokens_are_refused() -> None:
    with pytest.raises(UsageError, match="max_tokens must be at least 1"):
        GenerationOptions(max_tokens=0)
