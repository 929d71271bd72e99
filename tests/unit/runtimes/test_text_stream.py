"""Streamed text: never half a character, never a part of a stop string, nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.errors import UsageError
from edgeport.runtimes.text_stream import StopStrings, TextStream
from edgeport.runtimes.tokenizer import FileTokenizer, Tokenizer

TEXT = "naïve 你好 😀! e\u0301 👩\u200d👩\u200d👧"


def stream(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    text = TextStream(tokenizer)
    return [*(text.push(token) for token in tokens), text.finish()]


def test_characters_come_whole(byte_tokenizer: Tokenizer) -> None:
    pieces = stream(byte_tokenizer, byte_tokenizer.encode(TEXT))
    assert "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[:4] == ["n", "a", "", "ï"]


def test_bytes_that_are_no_text_do_not_hold_the_stream_up(byte_tokenizer: Tokenizer) -> None:
    pieces = stream(byte_tokenizer, [0x80] * 12 + list(b"ok"))
    assert "".join(pieces).endswith("ok")
    assert sum(piece != "" for piece in pieces[:12]) >= 2


def test_an_unfinished_character_at_the_end_is_shown_as_such(byte_tokenizer: Tokenizer) -> None:
    assert "".join(stream(byte_tokenizer, list("😀".encode()[:2]))) == "\ufffd"


def test_a_stream_equals_decoding_at_once(tiny_qwen2_dir: Path) -> None:
    tokenizer = FileTokenizer(tiny_qwen2_dir)
    tokens = tokenizer.encode(TEXT + "\n\tdef area(self) -> float:\n        raise NotImplementedError")
    assert "".join(stream(tokenizer, tokens)) == tokenizer.decode(tokens)


def test_a_sentencepiece_stream_keeps_its_spaces(byte_tokenizer: Tokenizer) -> None:
    """Metaspace decoders drop the first space of what they decode: the window must not begin with each piece."""
    from tokenizers import Tokenizer as Raw
    from tokenizers import decoders, models

    vocabulary: dict[str, int] = {"<unk>": 0, "▁the": 1, "▁old": 2, "▁man": 3, "s": 4}
    raw = Raw(models.BPE(vocabulary, [], unk_token="<unk>"))
    raw.decoder = decoders.Metaspace()

    class Plain:
        def decode(self, tokens: Any) -> str:
            return str(raw.decode(list(tokens)))

    plain: Any = Plain()
    assert stream(plain, [1, 2, 3, 4, 1]) == ["the", " old", " man", "s", " the", ""]


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["one st", "op two"], ["stop"], "one "),
        (["s", "t", "o", "p"], ["stop"], ""),
        (["sto", "re", " st"], ["stop"], "store st"),
        (["aab", "aac"], ["aac"], "aab"),
        (["a b c"], ["c", "b"], "a "),
        (["x\n", "\ny"], ["\n\n"], "x"),
        (["plain"], [], "plain"),
    ],
)
def test_text_ends_before_the_first_stop_string(pieces: list[str], stops: list[str], expected: str) -> None:
    watcher = StopStrings(stops)
    assert "".join(map(watcher.push, pieces)) + watcher.finish() == expected
    assert (watcher.found is not None) == (expected != "".join(pieces))


def test_any_cut_gives_the_same_text() -> None:
    text, stops = "def f(x):\n    return x\n\nclass A: pass", ["\n\ncl", "\nclass A"]
    generator = np.random.default_rng(0)
    for _ in range(200):
        cuts = sorted(generator.integers(0, len(text), 5))
        pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        watcher = StopStrings(stops)
        assert "".join(map(watcher.push, pieces)) + watcher.finish() == "def f(x):\n    return x"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UsageError, match="must not be empty"):
        StopStrings(["a", ""])
