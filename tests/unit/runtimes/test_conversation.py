"""A conversation that does not fit: an error unless asked otherwise, and then whole messages, the oldest first, and said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes import GenerationOptions, Model, SessionOptions, load
from edgeport.runtimes.conversation import fit
from edgeport.runtimes.tokenizer import Message

SYSTEM = {"role": "system", "content": "s"}


def turn(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"question {number}"},
        {"role": "assistant", "content": f"answer {number}"},
    ]


CHAT: list[Message] = [SYSTEM, *turn(1), *turn(2), {"role": "user", "content": "question 3"}]


def ten_each(messages: Sequence[Message]) -> list[int]:
    return [0] * (10 * len(messages))


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (60, [0, 1, 2, 3, 4, 5]),
        (59, [0, 3, 4, 5]),
        (40, [0, 3, 4, 5]),
        (39, [0, 5]),
        (20, [0, 5]),
        (5, [0, 5]),
    ],
)
def test_a_question_goes_with_its_answer(limit: int, kept: list[int]) -> None:
    tokens, dropped = fit(CHAT, ten_each, limit, "drop_oldest_messages")
    assert len(tokens) == 10 * len(kept)
    assert list(dropped) == [message for index, message in enumerate(CHAT) if index not in kept]


def test_without_being_asked_nothing_is_dropped() -> None:
    assert fit(CHAT, ten_each, 5, "error") == ([0] * 60, ())


def test_without_a_system_message() -> None:
    assert fit(CHAT[1:], ten_each, 39, "drop_oldest_messages")[1] == tuple(CHAT[1:3])


def test_another_choice_is_refused() -> None:
    with pytest.raises(UsageError, match="overflow is 'truncate'") as caught:
        fit(CHAT, ten_each, 5, "truncate")  # type: ignore[arg-type]
    assert "drop_oldest_messages" in str(caught.value.hint)


@pytest.fixture(scope="module")
def model(packed_dir: Path) -> Iterator[Model]:
    options = SessionOptions(threads=1, context_length=96)
    with load(packed_dir / "safetensors", options=options, check="never") as opened:
        yield opened


def test_a_model_says_what_it_left_out(model: Model) -> None:
    options = GenerationOptions(max_tokens=20)
    assert len(model.chat_tokens(CHAT)) + 20 > 97
    with pytest.raises(RuntimeFailure, match="need a context of"):
        model.chat(CHAT, options)
    answer = model.chat(CHAT, options, overflow="drop_oldest_messages")
    assert (
        answer.dropped_messages
        and list(answer.dropped_messages) == CHAT[1 : 1 + len(answer.dropped_messages)]
    )
    left = [message for message in CHAT if message not in answer.dropped_messages]
    assert answer.prompt_tokens == len(model.chat_tokens(left)) <= 77
    assert answer.tokens == model.chat(left, options).tokens


def test_what_cannot_be_made_to_fit_is_an_error(model: Model) -> None:
    long = [{"role": "user", "content": "value " * 200}]
    with pytest.raises(RuntimeFailure, match="need a context of"):
        model.chat(long, overflow="drop_oldest_messages")


def test_a_full_context_is_told_apart(model: Model) -> None:
    prompt = "def area(self) -> float: return value if value is None else 12345"
    endless = GenerationOptions(ignore_stop_tokens=True)
    found = model.generate(prompt, endless)
    assert found.finish_reason == "context" and found.prompt_tokens + len(found.tokens) == 97
    assert (
        model.generate("def", GenerationOptions(max_tokens=3, ignore_stop_tokens=True)).finish_reason
        == "length"
    )
